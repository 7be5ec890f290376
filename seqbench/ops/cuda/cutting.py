"""How a scan is cut so that a GPU is busy: into chunks of time, where there are too few channels.

*Channel-parallel* is one walk through all of time; every byte moves once. *Chunked* cuts time, reads some inputs twice
and needs two launches more, and has as many times the threads as there are chunks. One small model says what either
takes, and the least is chosen. It knows a kernel by what a warp does in a step (`Pass`), and by how many warps of it a
multiprocessor holds, which the compiled kernel says.

The constants are derived from data sheets and from the machine code, not measured.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seqbench.ops.precision import HALF

BLOCK = 64  # threads of a block, as in kernels/scan.cuh
WARP = 32
IN_FLIGHT = 128  # bytes that a thread asks for at a time, as in kernels/scan.cuh
FEWEST_STEPS = 64  # of a chunk: less would be spent on filling and emptying the pipeline

# Of one multiprocessor. An H100 moves 3.0 TB/s with 132 of them at 1.98 GHz, an A100 and a B200 within a factor of 2.5.
BYTES_PER_CYCLE = 11.5
# Bytes in flight at which 63 % of that is reached: by Little's law, a latency of 700 cycles and three quarters more.
SATURATION = 14e3
# Instructions per cycle: of its four schedulers when they have warps to choose from, and of one warp alone.
ISSUE = 3.0
ISSUE_OF_A_WARP = 0.4
# From the end of a kernel to the work of the next, in cycles.
LAUNCH = 4000


@dataclass(frozen=True)
class Pass:
    """What a warp does in a step of a kernel, and how many warps a multiprocessor holds.

    Attributes:
        bytes: that it reads and writes.
        in_flight: bytes that it has asked for when it first waits for one.
        instructions: that it issues.
        resident: warps of this kernel that fit on a multiprocessor.
    """

    bytes: float
    in_flight: float
    instructions: float
    resident: int

    def cycles(self, warps: int, steps: float, processors: int) -> float:
        """Predict the cycles of a launch of so many warps, each with so many steps."""
        rounds, rest = divmod(warps, processors * self.resident)
        return steps * (rounds * self._step(self.resident) + (self._step(rest / processors) if rest else 0))

    def _step(self, warps: float) -> float:
        """Predict the cycles that a multiprocessor with so many warps takes for a step of each."""
        moving = self.bytes / BYTES_PER_CYCLE / -math.expm1(-warps * self.in_flight / SATURATION)
        issuing = self.instructions / min(ISSUE, ISSUE_OF_A_WARP * warps)
        return warps * max(moving, issuing)


@dataclass(frozen=True)
class Work:
    """What a thread does in a step of a kernel of kernels/scan.cuh's kind, in elements; instructions are a warp's.

    The instructions are those of the compiled kernel for sm_90, which tests/ptx/test_machine_code.py holds them to: in
    single precision and better, and in half precision.
    """

    reads: int
    writes: int
    instructions: int
    half: int

    def of(self, dtype: torch.dtype, resident: int) -> Pass:
        """Return the same for elements of a type."""
        moved = WARP * (self.reads + self.writes) * dtype.itemsize
        instructions = self.half if dtype in HALF else self.instructions
        return Pass(moved, WARP * IN_FLIGHT, instructions, resident)


def carrying(dtype: torch.dtype, resident: int) -> Pass:
    """Return what a warp does in `carry` of kernels/scan.cuh: product and local state in, entering state out."""
    size = 4 if dtype in HALF else dtype.itemsize
    return Pass(3 * WARP * size, WARP * IN_FLIGHT, 17, resident)


@dataclass(frozen=True)
class Cut:
    """`chunks` chunks of `size` steps, the last one perhaps shorter; one chunk is the channel-parallel form."""

    chunks: int
    size: int

    def buffers(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return memory for what each chunk does to a state that enters it, for sequences (B, T, D) such as `like`.

        Returns:
            (B, chunks, D) products of the gates, and (B, chunks, D) states that the chunks make of zero, which the
            kernels later replace by the states that enter them.
        """
        B, _, D = like.shape
        dtype = torch.float32 if like.dtype in HALF else like.dtype
        shape = (B, self.chunks, D)
        products = torch.empty(shape, dtype=dtype, device=like.device)
        return products, torch.empty(shape, dtype=dtype, device=like.device)


def cuts(T: int) -> Iterator[Cut]:
    """Yield the cuts of T steps that are considered: none, then chunks of 2^n times the fewest steps."""
    yield Cut(1, T)
    size = FEWEST_STEPS
    while size < T:
        yield Cut(-(-T // size), size)
        size *= 2


def cut(warps: int, T: int, processors: int, whole: Pass, reduced: Pass, carried: Pass, carriers: int = 1) -> Cut:
    """Choose how to cut T steps of a scan.

    Args:
        warps: that the scan has without chunks.
        T: time steps, at least 1.
        processors: multiprocessors of the GPU.
        whole: what the kernel does that makes the results.
        reduced: what the kernel does that finds out what a chunk does to a state.
        carried: what the kernel does that takes states through the chunks.
        carriers: warps of that one for each warp of the others.
    """
    return min(cuts(T), key=lambda cut: predicted(cut, warps, processors, whole, reduced, carried, carriers))


def predicted(
    cut: Cut, warps: int, processors: int, whole: Pass, reduced: Pass, carried: Pass, carriers: int = 1
) -> float:
    """Predict the cycles that a scan takes with this cut; arguments as those of `cut`."""
    main = whole.cycles(warps * cut.chunks, cut.size, processors)
    if cut.chunks == 1:
        return main
    before = reduced.cycles(warps * cut.chunks, cut.size, processors)
    return main + before + carried.cycles(warps * carriers, cut.chunks, processors) + 2 * LAUNCH
