"""A GPU for tests: the backend "cuda" on CPU tensors, its kernels run from their PTX."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from seqbench.ops import cuda
from seqbench.ops.cuda import cutting, linear_cross_entropy, linear_scan, rg_lru, selective_scan
from seqbench.ops.cuda import launch as gpu
from tests.ptx import machine
from tests.ptx.program import Kernel

# What follows from a shape and the GPU, and is decided once for each.
REMEMBERED = (
    *((linear_scan, "_cut"), (rg_lru, "_cut"), (selective_scan, "_cut"), (selective_scan, "_share")),
    (linear_cross_entropy, "_warps"),
)
PROCESSORS = 4  # multiprocessors
RESIDENT = 16  # warps that one of them holds
CACHE = 1 << 16  # bytes of its second-level cache
CHUNK = 47  # steps, where "chunked" is forced: more than any thread reads at a time, and some left over


@dataclass
class Emulation:
    """An emulated GPU, and what it has run so far.

    `kernels` replaces the kernels of a source and element type, for tests of other programs than NVRTC's.
    """

    arch: str = "sm_90"
    ulps: int = 0
    races: bool = False
    limit: int = 1 << 32
    launches: Counter[str] = field(default_factory=Counter)
    loaded: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    ran: dict[str, np.ndarray] = field(default_factory=dict)
    kernels: dict[tuple[str, str], dict[str, Kernel]] = field(default_factory=dict)

    def launch(
        self, source: str, kernel: str, like: Tensor, *, threads: int, block: int, arguments: Sequence[gpu.Argument]
    ) -> None:
        """Stand for seqbench.ops.cuda.launch.launch."""
        element = gpu.element(like.dtype)
        kernels = self.kernels.get((source, element)) or machine.module(source, element, self.arch)
        name = f"{kernel}_{element}"
        done = machine.run(
            *(kernels[name], -(-threads // block), block, arguments),
            ulps=self.ulps,
            races=self.races,
            limit=self.limit,
        )
        self.launches[name] += 1
        self.loaded[name] += done.loaded
        self.stored[name] += done.stored
        self.ran[name] = self.ran[name] | done.ran if name in self.ran else done.ran


@contextmanager
def emulated(form: str | None = None, emulation: Emulation | None = None) -> Iterator[Emulation]:
    """Let the backend "cuda" run on CPU tensors; skip the test where it cannot.

    Args:
        form: of the kernels, see `force`; as on a small GPU if None.
        emulation: how; by default the PTX of an H100.
    """
    machine.need()
    emulation = emulation or Emulation()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "unavailable", lambda operator, device: None)
        patch.setattr(gpu, "launch", emulation.launch)
        patch.setattr(gpu, "processors", lambda device: PROCESSORS)
        patch.setattr(gpu, "resident", lambda *kernel: RESIDENT)
        patch.setattr(gpu, "cache_bytes", lambda device: CACHE)
        patch.setattr(linear_cross_entropy, "product", _product)
        for module, name in REMEMBERED:
            patch.setattr(module, name, getattr(module, name).__wrapped__)
        force(form, patch)
        yield emulation


def _product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Multiply as tensor cores do: half-precision numbers, added up in float32."""
    return torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)


def force(form: str | None, patch: pytest.MonkeyPatch) -> None:
    """Make the kernels take a form, whatever the shape; None is the rule.

    Scans: "channels", "chunked", or "many chunks" of few steps. The selective scan's backward pass can share a row's
    channels among warps, too: "channels, shared". Cross entropy: "rows", a warp for each, or "slices" of rows, and
    three positions at a time.
    """
    if form == "rows":
        patch.setattr(linear_cross_entropy, "MOST_SLICES", 1)
    if form == "slices":
        patch.setattr(linear_cross_entropy, "chunk_rows", lambda row_bytes, cache_bytes: 3)
    if form in (None, "rows", "slices"):
        return
    form, _, shared = form.partition(", ")

    def cut(T: int) -> cutting.Cut:
        if form == "channels" or T == 1:
            return cutting.Cut(1, T)
        size = 3 if form == "many chunks" else min(CHUNK, -(-T // 3))
        return cutting.Cut(-(-T // size), size)

    def share(shape: selective_scan.Shape) -> selective_scan.Shares:
        return selective_scan.Shares(cut(shape.T), max(1, shape.groups - 1) if shared else 1)

    for module in (linear_scan, rg_lru):
        patch.setattr(module, "_cut", lambda direction, B, T, *rest: cut(T))
    patch.setattr(selective_scan, "_cut", lambda shape: cut(shape.T))
    patch.setattr(selective_scan, "_share", share)
