"""RecBLR's recurrence in C++: kernels/rg_lru.cpp behind the signatures of every backend.

Shapes: B batch, T time, D channels.
"""

import torch
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, STRIDED, THREADS, function, strided, threads
from seqbench.ops.layout import plain, rows
from seqbench.ops.precision import widened

KERNEL = "rg_lru"
_SIZES = (INTEGER, INTEGER, INTEGER)
_FORWARD = (*STRIDED, *STRIDED, POINTER, POINTER, POINTER, *_SIZES, *THREADS)
_BACKWARD = (*STRIDED, *STRIDED, POINTER, POINTER, *STRIDED, *STRIDED, *(POINTER,) * 5, *_SIZES, *THREADS)


@widened
def forward(inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor) -> Tensor:
    """States (B, T, D); arguments as in `rg_lru`."""
    states = torch.empty(inputs.shape, dtype=inputs.dtype)
    if states.numel() == 0:
        return states
    inputs, gates, decay, initial_state = rows(inputs), rows(gates), plain(decay), plain(initial_state)
    function(KERNEL, "forward", inputs.dtype, _FORWARD)(
        *(*strided(inputs), *strided(gates), decay.data_ptr(), initial_state.data_ptr(), states.data_ptr()),
        *(*inputs.shape, *threads()),
    )
    return states


@widened
def backward(
    inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor, states: Tensor, grad_states: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `forward` with respect to inputs, gates, decay and initial state.

    Args:
        inputs, gates, decay, initial_state: as given to `forward`.
        states: (B, T, D), what `forward` returned.
        grad_states: (B, T, D), gradient of the loss with respect to `states`.
    """
    if inputs.numel() == 0:
        return tuple(tensor.new_zeros(tensor.shape) for tensor in (inputs, gates, decay, initial_state))
    held = (rows(inputs), rows(gates), plain(decay), plain(initial_state))
    states, grad_states = rows(states), rows(grad_states)
    grads = tuple(torch.empty(tensor.shape, dtype=inputs.dtype) for tensor in held)
    # Sums over time of each batch row: added up in one order, however many threads there are.
    partial = torch.empty(initial_state.shape, dtype=torch.float64)
    inputs, gates, decay, initial_state = held
    function(KERNEL, "backward", inputs.dtype, _BACKWARD)(
        *(*strided(inputs), *strided(gates), decay.data_ptr(), initial_state.data_ptr()),
        *(*strided(states), *strided(grad_states), *(grad.data_ptr() for grad in grads), partial.data_ptr()),
        *(*inputs.shape, *threads()),
    )
    return grads
