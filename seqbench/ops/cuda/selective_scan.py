"""Mamba's scan in CUDA: kernels/selective_scan.cu behind the signatures of every backend.

Shapes: B batch, T time, D channels, N states per channel.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from seqbench.ops.cuda import cutting
from seqbench.ops.cuda import launch as gpu
from seqbench.ops.cuda.cutting import Cut, Pass
from seqbench.ops.cuda.launch import strided
from seqbench.ops.functions.selective_scan import Arguments
from seqbench.ops.layout import plain, rows
from seqbench.ops.precision import HALF
from seqbench.ops.pytorch import selective_scan as pytorch

SOURCE = "selective_scan"
# As in kernels/selective_scan.cu.
WARP = 32
STATES = 8  # of a channel in one thread
FORWARD_BLOCK = 4 * WARP
LARGEST_N = STATES * WARP
KEPT_BYTES = 64  # of one state over the steps between two kept ones
ALIGNMENT = 16  # bytes at whose multiples the rows of B and C begin

# Instructions of a warp in a step, of the compiled kernels for sm_90 with 16 states a channel.
INSTRUCTIONS = {
    **{"forward": 165, "forward_reduce": 105, "backward": 620, "backward_reduce": 155},
    **{"forward_carry": 23, "backward_carry": 25},
}
# Sequences (B, T, D) and (B, T, N) that a kernel reads or writes.
TRAFFIC = {
    "forward": (4, 2),
    "forward_reduce": (2, 1),
    "backward": (11, 6),
    "backward_reduce": (3, 1),
}
# The sums over channels that warps of one row keep apart are no larger than this many times the inputs.
WORKSPACE = 1


@dataclass(frozen=True)
class Shares:
    """How the backward pass is shared out: chunks of time, and warps that share the channels of a chunk."""

    cut: Cut
    slabs: int


def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, D) and the final state (B, D, N), contiguous."""
    if not _has_kernel(scan.decay):
        outputs, final_state = pytorch.forward(scan)
        return outputs, final_state
    inputs, initial_state = scan.inputs, scan.initial_state
    outputs = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    if inputs.numel() == 0:
        return outputs, initial_state.clone(memory_format=torch.contiguous_format)
    problem = _Problem(scan)
    pieces = _cut(problem.shape)
    final_state = torch.empty(initial_state.shape, dtype=inputs.dtype, device=inputs.device)
    entering, _ = problem.entering(pieces)
    problem.launch("forward", pieces, entering, outputs, final_state)
    return outputs, final_state


def backward(scan: Arguments, grad_outputs: Tensor, grad_final: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of `forward` with respect to its eight tensors; an empty one where there was none.

    From its arguments alone: the states are computed again.

    Args:
        scan: as given to `forward`.
        grad_outputs: (B, T, D), gradient of the loss with respect to the outputs.
        grad_final: (B, D, N), with respect to the final state.
    """
    if not _has_kernel(scan.decay):
        return tuple(pytorch.backward(scan, grad_outputs, grad_final))
    inputs, skip, gate = scan.inputs, scan.skip, scan.gate
    dtype, device = inputs.dtype, inputs.device
    if inputs.numel() == 0:
        zeros = (inputs.new_zeros(0 if tensor is None else tensor.shape) for tensor in scan.tensors[:-1])
        return *zeros, grad_final.clone(memory_format=torch.contiguous_format)
    problem = _Problem(scan)
    B, T, D, N, *_ = problem.shape
    precise = problem.shape.precise

    def empty(*shape: int, dtype: torch.dtype = precise) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    shares = _share(problem.shape)
    pieces, slabs = shares.cut, shares.slabs
    grad_outputs, grad_final = rows(grad_outputs), plain(grad_final)
    entering, sums = problem.entering(pieces)
    leaving = None
    if sums is not None:
        leaving = problem.locals(pieces)
        problem.launch("backward_reduce", pieces, *strided(grad_outputs), leaving)
        problem.launch("backward_carry", pieces, sums, leaving, grad_final)
    stretches = -(-pieces.size // (KEPT_BYTES // precise.itemsize))
    kept = empty(B * pieces.chunks * slabs, stretches - 1, STATES, WARP)
    # What is added up further below, by torch, in one order: the result does not depend on timing.
    by_decay = empty(B, pieces.chunks, D, N)
    by_skip = None if skip is None else empty(B, pieces.chunks, D, dtype=torch.float64)
    by_drive, by_readout = empty(slabs, B, T, N), empty(slabs, B, T, N)
    grad_inputs, grad_deltas = empty(B, T, D, dtype=dtype), empty(B, T, D, dtype=dtype)
    grad_gate = None if gate is None else empty(B, T, D, dtype=dtype)
    grad_initial = empty(B, D, N, dtype=dtype)
    problem.launch(
        *("backward", pieces, *strided(grad_outputs), grad_final, entering, leaving),
        *(grad_inputs, grad_deltas, grad_gate, grad_initial, by_decay, by_drive, by_readout, by_skip, kept, slabs),
        warps=B * pieces.chunks * slabs,
    )
    return (
        grad_inputs,
        grad_deltas,
        by_decay.sum(dim=(0, 1), dtype=torch.float64).to(dtype),
        by_drive.sum(dim=0).to(dtype),
        by_readout.sum(dim=0).to(dtype),
        inputs.new_empty(0) if by_skip is None else by_skip.sum(dim=(0, 1)).to(dtype),
        inputs.new_empty(0) if grad_gate is None else grad_gate,
        grad_initial,
    )


def _has_kernel(decay: Tensor) -> bool:
    """Return whether the kernels take this many states per channel; torch's operations take any number."""
    return 1 <= decay.shape[1] <= LARGEST_N


class Shape(NamedTuple):
    """Sizes, element type and device, from which follows how the scan is cut."""

    B: int
    T: int
    D: int
    N: int
    dtype: torch.dtype
    device: torch.device

    @property
    def precise(self) -> torch.dtype:
        """The type that elements are computed in."""
        return torch.float32 if self.dtype in HALF else self.dtype

    @property
    def lanes(self) -> int:
        """Threads that share a channel."""
        return 1 << (-(-self.N // STATES) - 1).bit_length()

    @property
    def groups(self) -> int:
        """Groups of channels, one a warp."""
        return -(-self.D // (WARP // self.lanes))

    def work(self, kernel: str) -> Pass:
        """Return what a warp does in a step of a kernel."""
        resident = gpu.resident(SOURCE, f"{SOURCE}_{kernel}", gpu.element(self.dtype), self.device, block_of(kernel))
        size, channels = self.dtype.itemsize, WARP // self.lanes
        if kernel.endswith("carry"):
            # A local state in, the entering state out, and a sum of Δ that eight threads share.
            moved = (2 + 1 / STATES) * WARP * self.precise.itemsize
            return Pass(moved, WARP * cutting.IN_FLIGHT, INSTRUCTIONS[kernel], resident)
        of_channels, of_states = TRAFFIC[kernel]
        # The groups of a row read the same B and C, which come from the cache but for the first of them.
        moved = size * (of_channels * channels + of_states * self.N / self.groups)
        ahead = 8 // self.precise.itemsize * size * (of_channels * channels + of_states * self.N)
        return Pass(moved, ahead, INSTRUCTIONS[kernel], resident)


class _Problem:
    """The shape, and the arguments that all kernels begin with."""

    def __init__(self, scan: Arguments) -> None:
        self.like = scan.inputs
        B, T, D = scan.inputs.shape
        shape = self.shape = Shape(B, T, D, scan.decay.shape[1], scan.inputs.dtype, scan.inputs.device)
        self.lanes, self.groups = shape.lanes, shape.groups
        sequences = (rows(scan.inputs), rows(scan.deltas), *(self.aligned(t) for t in (scan.drive, scan.readout)))
        self.arguments: tuple[gpu.Argument, ...] = (
            *(number for tensor in sequences for number in strided(tensor)),
            *((None, 0, 0) if scan.gate is None else strided(rows(scan.gate))),
            *(plain(scan.decay), None if scan.skip is None else plain(scan.skip), plain(scan.initial_state)),
            *(shape.B, shape.T, shape.D, shape.N, self.lanes, int(scan.delta_softplus)),
        )

    def aligned(self, tensor: Tensor) -> Tensor:
        """Return (B, T, N) with rows that are padded to the states of all lanes, and aligned: a copy if need be."""
        tensor, missing = rows(tensor), self.lanes * STATES - self.shape.N
        if missing:
            return pad(tensor, (0, missing))
        strides = (tensor.element_size() * stride for stride in tensor.stride()[:2])
        if any(number % ALIGNMENT for number in (tensor.data_ptr(), *strides)):
            return tensor.clone(memory_format=torch.contiguous_format)
        return tensor

    def locals(self, pieces: Cut) -> Tensor:
        """Return memory for a state, or its gradient, of every channel and chunk."""
        sizes = (self.shape.B, pieces.chunks, self.groups, STATES, WARP)
        return torch.empty(sizes, dtype=self.shape.precise, device=self.shape.device)

    def entering(self, pieces: Cut) -> tuple[Tensor | None, Tensor | None]:
        """Return the states that enter the chunks, and the sum of Δ in each; None if there is one chunk."""
        if pieces.chunks == 1:
            return None, None
        states = self.locals(pieces)
        sums = torch.empty((*states.shape[:3], WARP), dtype=states.dtype, device=states.device)
        self.launch("forward_reduce", pieces, states, sums)
        self.launch("forward_carry", pieces, sums, states)
        return states, sums

    def launch(self, kernel: str, pieces: Cut, *arguments: gpu.Argument, warps: int = 0) -> None:
        """Queue one of the kernels, with a warp for every group and chunk unless a number is given."""
        if kernel.endswith("carry"):
            threads = self.shape.B * self.groups * STATES * WARP
        else:
            threads = (warps or self.shape.B * self.groups * pieces.chunks) * WARP
        gpu.launch(
            *(SOURCE, f"{SOURCE}_{kernel}", self.like),
            threads=threads,
            block=block_of(kernel),
            arguments=(*self.arguments, pieces.chunks, pieces.size, *arguments),
        )


def block_of(kernel: str) -> int:
    """Return the threads of a block of a kernel."""
    return WARP if kernel == "backward" else FORWARD_BLOCK


@cache
def _cut(shape: Shape) -> Cut:
    """Choose how to cut time in the forward pass, once for all calls of one shape."""
    whole, reduce, carry = (shape.work(kernel) for kernel in ("forward", "forward_reduce", "forward_carry"))
    processors = gpu.processors(shape.device)
    return cutting.cut(shape.B * shape.groups, shape.T, processors, whole, reduce, carry, carriers=STATES)


@cache
def _share(shape: Shape) -> Shares:
    """Choose how to share out the backward pass, once for all calls of one shape."""
    return share_out(*sharing(shape))


def sharing(shape: Shape) -> tuple[Any, ...]:
    """Return the arguments of `share_out`."""
    most = max(1, min(shape.groups, WORKSPACE * shape.D // (2 * shape.N)))
    names = ("backward", "forward_reduce", "backward_reduce", "forward_carry", "backward_carry")
    slab_bytes = 4 * shape.N * shape.precise.itemsize  # of a step: written, read and added up, twice
    sizes = (shape.B, shape.T, shape.groups)
    return *sizes, most, slab_bytes, gpu.processors(shape.device), *(shape.work(name) for name in names)


def share_out(
    B: int, T: int, groups: int, most: int, slab_bytes: int, processors: int, whole: Pass, *others: Pass
) -> Shares:
    """Choose how to share out the backward pass.

    Args:
        B: rows.
        T: time steps.
        groups: of channels, each a warp's.
        most: warps that may share a row's groups.
        slab_bytes: that each of these moves per step for sums of its own.
        processors: multiprocessors of the GPU.
        whole: what the kernel does that makes the gradients.
        others: what the two do that reduce chunks, and the two that carry through them.
    """

    def cycles(shares: Shares) -> float:
        return predicted(shares, B, T, groups, most, slab_bytes, processors, whole, *others)

    return min((Shares(cut, slabs) for cut in cutting.cuts(T) for slabs in range(1, most + 1)), key=cycles)


def predicted(
    shares: Shares, B: int, T: int, groups: int, most: int, slab_bytes: int, processors: int, whole: Pass, *others: Pass
) -> float:
    """Predict the cycles that the backward pass takes, shared out so; arguments as those of `share_out`."""
    cut, slabs = shares.cut, shares.slabs
    reduces, carries = others[:2], others[2:]
    total = whole.cycles(B * cut.chunks * slabs, cut.size * -(-groups // slabs), processors)
    total += B * T * slabs * slab_bytes / processors / cutting.BYTES_PER_CYCLE
    if cut.chunks > 1:
        total += sum(work.cycles(B * groups * cut.chunks, cut.size, processors) for work in reduces)
        total += sum(work.cycles(B * groups * STATES, cut.chunks, processors) for work in carries)
        total += 4 * cutting.LAUNCH
    return total
