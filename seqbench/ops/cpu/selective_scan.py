"""Mamba's scan in C++: kernels/selective_scan.cpp behind the signatures of every backend.

Shapes: B batch, T time, D channels, N states per channel.
"""

import ctypes

import torch
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, STRIDED, THREADS, address, function, strided, threads
from seqbench.ops.layout import plain, rows
from seqbench.ops.precision import widened

KERNEL = "selective_scan"
_SCAN = (
    *(*STRIDED, *STRIDED, POINTER, *STRIDED, *STRIDED, POINTER, *STRIDED, POINTER),
    *(ctypes.c_int, INTEGER, INTEGER, INTEGER, INTEGER),
)
_FORWARD = (*_SCAN, POINTER, POINTER, POINTER, *THREADS)
_BACKWARD = (*_SCAN, *STRIDED, POINTER, *(POINTER,) * 8, POINTER, *THREADS)
_WORKSPACE = (*(INTEGER,) * 4, ctypes.c_int)


@widened
def forward(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, D) and final state (B, D, N); arguments as in `selective_scan`."""
    outputs = torch.empty(inputs.shape, dtype=inputs.dtype)
    if outputs.numel() == 0:
        return outputs, initial_state.clone(memory_format=torch.contiguous_format)
    final = torch.empty(initial_state.shape, dtype=inputs.dtype)
    held = _held(inputs, deltas, decay, drive, readout, skip, gate, initial_state)
    count, pool = threads()
    workspace = _workspace("forward", inputs, decay, count)
    function(KERNEL, "forward", inputs.dtype, _FORWARD)(
        *(*_scan(*held, delta_softplus), outputs.data_ptr(), final.data_ptr()),
        *(workspace.data_ptr(), count, pool),
    )
    return outputs, final


@widened
def backward(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor,
    delta_softplus: bool,
    grad_outputs: Tensor,
    grad_final: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of `forward` with respect to its eight tensors; an empty one where there was none.

    Args:
        inputs, …, delta_softplus: as given to `forward`.
        grad_outputs: (B, T, D), gradient of the loss with respect to the outputs.
        grad_final: (B, D, N), the same for the final state.
    """
    held = _held(inputs, deltas, decay, drive, readout, skip, gate, initial_state)
    if inputs.numel() == 0:
        zeros = (inputs.new_zeros(0 if tensor is None else tensor.shape) for tensor in held[:-1])
        return *zeros, grad_final.clone(memory_format=torch.contiguous_format)
    grads = [None if tensor is None else torch.empty(tensor.shape, dtype=inputs.dtype) for tensor in held]
    grad_outputs, grad_final = rows(grad_outputs), plain(grad_final)
    count, pool = threads()
    workspace = _workspace("backward", inputs, decay, count)
    function(KERNEL, "backward", inputs.dtype, _BACKWARD)(
        *(*_scan(*held, delta_softplus), *strided(grad_outputs), grad_final.data_ptr()),
        *(*(address(grad) for grad in grads), workspace.data_ptr(), count, pool),
    )
    return tuple(inputs.new_empty(0) if grad is None else grad for grad in grads)


def _workspace(direction: str, inputs: Tensor, decay: Tensor, threads: int) -> Tensor:
    """Memory for a pass, from torch, which raises where there is none."""
    doubles = function(KERNEL, f"{direction}_workspace", inputs.dtype, _WORKSPACE, INTEGER)
    return torch.empty(doubles(*inputs.shape, decay.shape[1], threads), dtype=torch.float64)


def _held(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """The tensors as the kernel reads them, to be kept until it returns."""
    return (
        *(rows(inputs), rows(deltas), plain(decay), rows(drive), rows(readout)),
        *(None if skip is None else plain(skip), None if gate is None else rows(gate), plain(initial_state)),
    )


def _scan(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor,
    delta_softplus: bool,
) -> tuple[int | None, ...]:
    """What both passes are given, in the kernel's order."""
    return (
        *(*strided(inputs), *strided(deltas), decay.data_ptr(), *strided(drive), *strided(readout)),
        *(address(skip), *((None, 0, 0) if gate is None else strided(gate)), initial_state.data_ptr()),
        *(delta_softplus, *inputs.shape, decay.shape[1]),
    )
