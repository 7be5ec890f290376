"""Mamba's scan in C++: kernels/selective_scan.cpp behind the signatures of every backend.

Shapes: B batch, T time, D channels, N states per channel.
"""

import ctypes

import torch
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, STRIDED, THREADS, address, function, strided, threads
from seqbench.ops.functions.selective_scan import Arguments
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
def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, D) and the final state (B, D, N)."""
    dtype = scan.inputs.dtype
    outputs = torch.empty(scan.inputs.shape, dtype=dtype)
    if outputs.numel() == 0:
        return outputs, scan.initial_state.clone(memory_format=torch.contiguous_format)
    final = torch.empty(scan.initial_state.shape, dtype=dtype)
    held = _laid_out(scan)
    count, pool = threads()
    workspace = _workspace("forward", held, count)
    function(KERNEL, "forward", dtype, _FORWARD)(
        *(*_addresses(held), outputs.data_ptr(), final.data_ptr()),
        *(workspace.data_ptr(), count, pool),
    )
    return outputs, final


@widened
def backward(scan: Arguments, grad_outputs: Tensor, grad_final: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of `forward` with respect to its eight tensors; an empty one where there was none.

    Args:
        scan: as given to `forward`.
        grad_outputs: (B, T, D), gradient of the loss with respect to the outputs.
        grad_final: (B, D, N), the same for the final state.
    """
    inputs = scan.inputs
    if inputs.numel() == 0:
        zeros = (inputs.new_zeros(0 if tensor is None else tensor.shape) for tensor in scan.tensors[:-1])
        return *zeros, grad_final.clone(memory_format=torch.contiguous_format)
    grads = [None if tensor is None else torch.empty(tensor.shape, dtype=inputs.dtype) for tensor in scan.tensors]
    held, grad_outputs, grad_final = _laid_out(scan), rows(grad_outputs), plain(grad_final)
    count, pool = threads()
    workspace = _workspace("backward", held, count)
    function(KERNEL, "backward", inputs.dtype, _BACKWARD)(
        *(*_addresses(held), *strided(grad_outputs), grad_final.data_ptr()),
        *(*(address(grad) for grad in grads), workspace.data_ptr(), count, pool),
    )
    return tuple(inputs.new_empty(0) if grad is None else grad for grad in grads)


def _workspace(direction: str, scan: Arguments, threads: int) -> Tensor:
    """Allocate memory for a pass by torch, which raises where there is none."""
    doubles = function(KERNEL, f"{direction}_workspace", scan.inputs.dtype, _WORKSPACE, INTEGER)
    return torch.empty(doubles(*scan.inputs.shape, scan.decay.shape[1], threads), dtype=torch.float64)


def _laid_out(scan: Arguments) -> Arguments:
    """Return the tensors in the memory layout that the kernel reads; to be kept until it returns."""
    return Arguments(
        *(rows(scan.inputs), rows(scan.deltas), plain(scan.decay), rows(scan.drive), rows(scan.readout)),
        None if scan.skip is None else plain(scan.skip),
        None if scan.gate is None else rows(scan.gate),
        *(plain(scan.initial_state), scan.delta_softplus),
    )


def _addresses(scan: Arguments) -> tuple[int | None, ...]:
    """Return the arguments that both passes begin with, in the kernel's order."""
    return (
        *(*strided(scan.inputs), *strided(scan.deltas), scan.decay.data_ptr()),
        *(*strided(scan.drive), *strided(scan.readout), address(scan.skip)),
        *((None, 0, 0) if scan.gate is None else strided(scan.gate)),
        *(scan.initial_state.data_ptr(), scan.delta_softplus, *scan.inputs.shape, scan.decay.shape[1]),
    )
