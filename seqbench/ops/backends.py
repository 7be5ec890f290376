"""Which implementations of the scan exist, whether they can run here, and which one `auto` means."""

import os
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from seqbench.errors import UsageError, unknown_name

VARIABLE = "SEQBENCH_SCAN_BACKEND"


@dataclass(frozen=True)
class Backend:
    """One implementation. Its module has `unavailable`, `forward` and `backward` (reference: `scan`)."""

    name: str
    module: str
    summary: str

    def load(self) -> ModuleType:
        """Import the implementation."""
        return import_module(self.module)

    def unavailable(self, device: str) -> str | None:
        """Why it cannot run on this device ("cpu" or "cuda"), or None if it can."""
        return self.load().unavailable(device)


# In the order in which `auto` tries them.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cpu", "seqbench.ops.cpu_scan", "C++ kernel, compiled at first use"),
        Backend("torch", "seqbench.ops.torch_scan", "PyTorch operations, any device"),
        Backend("reference", "seqbench.ops.reference", "plain loop, the truth that others are compared with"),
    )
}


def resolve(name: str, device: str) -> Backend:
    """The backend of that name; `auto` is the SEQBENCH_SCAN_BACKEND variable, or the first that can run.

    Raises:
        UsageError: no such backend, or it cannot run on `device`.
    """
    if name == "auto":
        name = os.environ.get(VARIABLE, "auto")
    if name == "auto":
        return next(backend for backend in BACKENDS.values() if backend.unavailable(device) is None)
    if name not in BACKENDS:
        raise unknown_name("Scan backend", name, BACKENDS, "seqbench env")
    if reason := BACKENDS[name].unavailable(device):
        raise UsageError(f"Scan backend '{name}' cannot run on {device}: {reason}", hint="See `seqbench env`.")
    return BACKENDS[name]
