"""Which implementations of the operators exist, whether they can run here, and which one `auto` means.

A backend is a package with `unavailable(operator, device)` and one module per operator that it implements, each with
`forward` and, where the operator asks for one, `backward`. One that is not of this package is registered with
`BACKENDS.add(name, Backend(name, package, summary))`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from seqbench.errors import UsageError
from seqbench.registry import Registry

AUTO = "auto"
LISTING = "seqbench env"


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators.

    Attributes:
        name: what users choose it by.
        package: where its modules are, one for each operator.
        summary: a line for the listing.
        autograd: its `forward` functions consist of differentiable torch operations, and `backward` is not needed.
    """

    name: str
    package: str
    summary: str
    autograd: bool = False

    def load(self, operator: str) -> ModuleType:
        """Import the implementation of an operator."""
        return import_module(f"{self.package}.{operator}")

    def unavailable(self, operator: str, device: str) -> str | None:
        """Return why it cannot run the operator on this device ("cpu" or "cuda"), or None if it can."""
        if not _implemented(self.package, operator):
            return f"it does not implement {operator}"
        reason: str | None = import_module(self.package).unavailable(operator, device)
        return reason


@cache
def _implemented(package: str, operator: str) -> bool:
    return find_spec(f"{package}.{operator}") is not None


# In the order in which `auto` tries them.
BACKENDS = Registry[Backend](
    "Backend",
    {
        backend.name: backend
        for backend in (
            Backend("cuda", "seqbench.ops.cuda", "CUDA kernels, compiled at first use"),
            Backend("cpu", "seqbench.ops.cpu", "C++ kernels, compiled at first use"),
            Backend("torch", "seqbench.ops.pytorch", "PyTorch operations, any device"),
            Backend("reference", "seqbench.ops.reference", "plain loops that the others are compared with", True),
        )
    },
    LISTING,
)


@dataclass(frozen=True)
class Choice:
    """The backend that `auto` means, and what it came to for every operator that has been called."""

    backend: str
    used: dict[str, str]  # operator → name of the backend


_choice: ContextVar[Choice | None] = ContextVar("choice of a backend", default=None)


@contextmanager
def use(backend: str) -> Iterator[None]:
    """Let `auto` mean `backend` within a `with` block.

    An operator that this backend does not implement runs on the first one that can. One that it implements and cannot
    run here is an error.

    Args:
        backend: name of a backend, or "auto" for the first that can run each operator.

    Raises:
        UsageError: no such backend.
    """
    if backend != AUTO:
        _ = BACKENDS[backend]
    token = _choice.set(Choice(backend, {}))
    try:
        yield
    finally:
        _choice.reset(token)


def used() -> dict[str, str]:
    """Return the names of the backends that have run in this `with use(...)` block, by operator; else nothing."""
    choice = _choice.get()
    return {} if choice is None else dict(choice.used)


def resolve(operator: str, name: str, device: str) -> Backend:
    """Return the backend of that name; `auto` is the one in `use`, or the first that can run.

    Under torch.compile the answer is a constant: a graph keeps the backend that it was traced with.

    Raises:
        UsageError: no such backend, or it cannot run the operator on `device`.
    """
    choice = _choice.get()
    if name == AUTO and choice is not None and choice.backend != AUTO:
        preferred = BACKENDS[choice.backend]
        name = preferred.name if _implemented(preferred.package, operator) else AUTO
    chosen = _first(operator, device) if name == AUTO else BACKENDS[name]
    if name != AUTO and (reason := chosen.unavailable(operator, device)):
        raise UsageError(f"Backend '{name}' cannot run {operator} on {device}: {reason}", hint=f"See `{LISTING}`.")
    if choice is not None:
        choice.used[operator] = chosen.name
    return chosen


def _first(operator: str, device: str) -> Backend:
    for _, backend in BACKENDS.items():
        if backend.unavailable(operator, device) is None:
            return backend
    raise UsageError(f"No backend can run {operator} on {device}.", hint=f"See `{LISTING}`.")


# What torch.compiler.assume_constant_result does; that imports the whole compiler, for more than a second.
resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]
