"""Which implementations of the operators exist, whether they can run here, and which one `auto` means.

A backend is a package below seqbench.ops with `unavailable(operator, device)` and one module per operator, each with
`forward` and `backward` (the reference, which autograd differentiates, and linear_cross_entropy, whose forward pass
yields the gradients, have `forward` only).
"""

import os
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from seqbench.errors import UsageError, unknown_name

VARIABLE = "SEQBENCH_BACKEND"


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators."""

    name: str
    package: str
    summary: str

    def load(self, operator: str) -> ModuleType:
        """Import the implementation of an operator."""
        return import_module(f"{self.package}.{operator}")

    def unavailable(self, operator: str, device: str) -> str | None:
        """Why it cannot run the operator on this device ("cpu" or "cuda"), or None if it can."""
        return import_module(self.package).unavailable(operator, device)


# In the order in which `auto` tries them.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cuda", "seqbench.ops.cuda", "CUDA kernels, compiled at first use"),
        Backend("cpu", "seqbench.ops.cpu", "C++ kernels, compiled at first use"),
        Backend("torch", "seqbench.ops.pytorch", "PyTorch operations, any device"),
        Backend("reference", "seqbench.ops.reference", "plain loops, the truth that others are compared with"),
    )
}


def resolve(operator: str, name: str, device: str) -> Backend:
    """The backend of that name; `auto` is the SEQBENCH_BACKEND variable, or the first that can run.

    Raises:
        UsageError: no such backend, or it cannot run the operator on `device`.
    """
    if name == "auto":
        name = os.environ.get(VARIABLE, "auto")
    if name == "auto":
        return next(backend for backend in BACKENDS.values() if backend.unavailable(operator, device) is None)
    if name not in BACKENDS:
        raise unknown_name("Backend", name, BACKENDS, "seqbench env")
    if reason := BACKENDS[name].unavailable(operator, device):
        raise UsageError(f"Backend '{name}' cannot run {operator} on {device}: {reason}", hint="See `seqbench env`.")
    return BACKENDS[name]


# What torch.compiler.assume_constant_result does; that imports the whole compiler, for more than a second.
resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]
