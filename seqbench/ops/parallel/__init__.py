"""Scans in a fixed number of operations, whatever the length: for graphs that are made before the length is known.

A loop over time would be written down as often as the example is long. Here it takes log₂ of the longest length
(`longest`), each a pass over the whole sequence (Hillis and Steele, "Data parallel algorithms", 1986): more work than a
scan, but the same nodes for every length. Not a backend to compute with, and so in no registry.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.backends import BACKENDS, Backend, use

_longest: ContextVar[int] = ContextVar("longest sequence", default=0)


def unavailable(operator: str, device: str) -> str | None:
    """Runs wherever torch does."""
    return None


def wanted() -> bool:
    """Return whether a graph for every length is being made."""
    return _longest.get() > 0


@contextmanager
def parallel_scans(longest: int) -> Iterator[None]:
    """Let the scans within a `with` block be of this kind, for sequences of at most `longest` steps."""
    token = _longest.set(longest)
    try:
        with BACKENDS.added("parallel", Backend("parallel", __name__, "for export", autograd=True)), use("parallel"):
            yield
    finally:
        _longest.reset(token)


def scan(gates: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    """Return h[t] = gates[t]·h[t-1] + inputs[t] for gates and inputs (B, T, …), from h[-1] = initial (B, …)."""
    T, tail = inputs.shape[1], (0, 0) * (inputs.dim() - 2)
    products, states, shift = gates.expand_as(inputs), inputs, 1  # over the last `shift` steps
    while shift < _longest.get():
        states = states + products * F.pad(states, (*tail, shift, 0))[:, :T]
        products = products * F.pad(products, (*tail, shift, 0), value=1.0)[:, :T]
        shift *= 2
    return states + products * initial.unsqueeze(1)
