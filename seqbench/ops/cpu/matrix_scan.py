"""The recurrence of matrix states in C++: kernels/matrix_scan.cpp behind the signatures of every backend.

Shapes: B batch, T time, H heads, K channels of queries and keys, V channels of values.
"""

import ctypes

import torch
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, THREADS, function, threads
from seqbench.ops.functions.matrix_scan import Arguments
from seqbench.ops.layout import plain, rows
from seqbench.ops.precision import widened
from seqbench.ops.pytorch import matrix_scan as fallback

KERNEL = "matrix_scan"
_HEADS = (POINTER, INTEGER, INTEGER, INTEGER)  # see `_strided`
_SCAN = (*_HEADS, *_HEADS, *_HEADS, *_HEADS, POINTER, *(INTEGER,) * 5)
_FORWARD = (*_SCAN, POINTER, POINTER, POINTER, *THREADS)
_BACKWARD = (*_SCAN, *_HEADS, POINTER, *(POINTER,) * 5, POINTER, *THREADS)
_WORKSPACE = (*(INTEGER,) * 5, ctypes.c_int)


@widened
def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, H, V) and the final state (B, H, K, V)."""
    if _empty(scan):
        outputs, final = fallback.forward(scan)
        return outputs, final
    dtype = scan.query.dtype
    outputs = torch.empty(scan.value.shape, dtype=dtype)
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
    """Return the gradients of `forward` with respect to its five tensors.

    Args:
        scan: as given to `forward`.
        grad_outputs: (B, T, H, V), gradient of the loss with respect to the outputs.
        grad_final: (B, H, K, V), the same for the final state.
    """
    if _empty(scan):
        return tuple(fallback.backward(scan, grad_outputs, grad_final))
    dtype = scan.query.dtype
    grads = tuple(torch.empty(tensor.shape, dtype=dtype) for tensor in scan)
    held, grad_outputs, grad_final = _laid_out(scan), rows(grad_outputs), plain(grad_final)
    count, pool = threads()
    workspace = _workspace("backward", held, count)
    function(KERNEL, "backward", dtype, _BACKWARD)(
        *(*_addresses(held), *_strided(grad_outputs), grad_final.data_ptr()),
        *(*(grad.data_ptr() for grad in grads), workspace.data_ptr(), count, pool),
    )
    return grads


def _empty(scan: Arguments) -> bool:
    return scan.key.numel() == 0 or scan.value.numel() == 0


def _workspace(direction: str, scan: Arguments, threads: int) -> Tensor:
    """Allocate memory for a pass by torch, which raises where there is none."""
    doubles = function(KERNEL, f"{direction}_workspace", scan.query.dtype, _WORKSPACE, INTEGER)
    return torch.empty(doubles(*scan.query.shape, scan.value.shape[3], threads), dtype=torch.float64)


def _laid_out(scan: Arguments) -> Arguments:
    """Return the tensors in the memory layout that the kernel reads; to be kept until it returns."""
    return Arguments(
        *(rows(scan.query), rows(scan.key), rows(scan.value)),
        *(scan.log_decay.resolve_neg(), plain(scan.initial_state)),
    )


def _strided(tensor: Tensor) -> tuple[int, int, int, int]:
    """Return the address and the strides of batch, time and heads."""
    batch, time, head = tensor.stride()[:3]
    return tensor.data_ptr(), batch, time, head


def _addresses(scan: Arguments) -> tuple[int, ...]:
    """Return the arguments that both passes begin with, in the kernel's order."""
    sequences = (number for tensor in scan[:4] for number in _strided(tensor))
    return (*sequences, scan.initial_state.data_ptr(), *scan.query.shape, scan.value.shape[3])
