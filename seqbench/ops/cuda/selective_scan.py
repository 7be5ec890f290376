"""Mamba's scan in CUDA: kernels/selective_scan.cu behind the signatures of every backend.

Shapes: B batch, T time, D channels, N states per channel.
"""

import torch
from torch import Tensor

from seqbench.ops.cuda import launch as gpu
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

# Warps per multiprocessor that the backward pass aims at: about as many as fit. More make the sums over channels in a
# workspace, which is no larger than this many times the inputs, rather than one after the other.
WARPS = 12
WORKSPACE = 4


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
    final_state = torch.empty(initial_state.shape, dtype=inputs.dtype, device=inputs.device)
    gpu.launch(
        *(SOURCE, f"{SOURCE}_forward", inputs),
        threads=problem.B * problem.groups * WARP,
        block=FORWARD_BLOCK,
        arguments=(*problem.arguments, outputs, final_state),
    )
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
    B, T, D, N = problem.B, problem.T, problem.D, problem.N
    precise = torch.float32 if dtype in HALF else dtype

    def empty(*shape: int, dtype: torch.dtype = precise) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    blocks = -(-WARPS * gpu.processors(device) // B)
    slabs = max(1, min(blocks, problem.groups, WORKSPACE * D // (2 * N)))
    stretches = -(-T // (KEPT_BYTES // precise.itemsize))
    kept = empty(B * slabs, stretches - 1, STATES, WARP)
    # What is added up further below, by torch, in one order: the result does not depend on timing.
    by_decay, by_skip = empty(B, D, N), None if skip is None else empty(B, D, dtype=torch.float64)
    by_drive, by_readout = empty(slabs, B, T, N), empty(slabs, B, T, N)
    grad_inputs, grad_deltas = empty(B, T, D, dtype=dtype), empty(B, T, D, dtype=dtype)
    grad_gate = None if gate is None else empty(B, T, D, dtype=dtype)
    grad_initial = empty(B, D, N, dtype=dtype)
    grad_outputs, grad_final = rows(grad_outputs), plain(grad_final)
    results = (grad_inputs, grad_deltas, grad_gate, grad_initial, by_decay, by_drive, by_readout, by_skip, kept)
    gpu.launch(
        *(SOURCE, f"{SOURCE}_backward", inputs),
        threads=B * slabs * WARP,
        block=WARP,
        arguments=(
            *(*problem.arguments, *strided(grad_outputs), grad_final),
            *results,
            slabs,
        ),
    )
    return (
        grad_inputs,
        grad_deltas,
        by_decay.sum(dim=0, dtype=torch.float64).to(dtype),
        by_drive.sum(dim=0).to(dtype),
        by_readout.sum(dim=0).to(dtype),
        inputs.new_empty(0) if by_skip is None else by_skip.sum(dim=0).to(dtype),
        inputs.new_empty(0) if grad_gate is None else grad_gate,
        grad_initial,
    )


def _has_kernel(decay: Tensor) -> bool:
    """Whether the kernels take this many states per channel; torch's operations take any number."""
    return 1 <= decay.shape[1] <= LARGEST_N


class _Problem:
    """Sizes, and the arguments that both directions begin with. Keeps the tensors whose addresses they are."""

    def __init__(self, scan: Arguments) -> None:
        (self.B, self.T, self.D), self.N = scan.inputs.shape, scan.decay.shape[1]
        lanes = 1
        while lanes * STATES < self.N:
            lanes *= 2
        self.groups = -(-self.D // (WARP // lanes))  # of channels, one group a warp
        self.sequences = tuple(rows(tensor) for tensor in (scan.inputs, scan.deltas, scan.drive, scan.readout))
        self.gate = None if scan.gate is None else rows(scan.gate)
        skip = None if scan.skip is None else plain(scan.skip)
        self.parameters = (plain(scan.decay), skip, plain(scan.initial_state))
        self.arguments = (
            *(number for tensor in self.sequences for number in strided(tensor)),
            *((0, 0, 0) if self.gate is None else strided(self.gate)),
            *self.parameters,
            *(self.B, self.T, self.D, self.N, lanes, int(scan.delta_softplus)),
        )
