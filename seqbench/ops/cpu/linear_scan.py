"""The scan in C++: kernels/linear_scan.cpp behind the signatures of every backend.

Shapes: B batch, T time, D channels.
"""

import torch
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, STRIDED, THREADS, address, function, strided, threads
from seqbench.ops.layout import plain, rows
from seqbench.ops.precision import widened

KERNEL = "linear_scan"
_SIZES = (POINTER, INTEGER, INTEGER, INTEGER)
_FORWARD = (*STRIDED, *STRIDED, POINTER, POINTER, *_SIZES, *THREADS)
_BACKWARD = (*STRIDED, *STRIDED, POINTER, *STRIDED, *(POINTER,) * 4, *_SIZES, *THREADS)


@widened
def forward(gates: Tensor, inputs: Tensor, initial_state: Tensor, lengths: Tensor | None) -> Tensor:
    """States of h[t] = gates[t] * h[t-1] + inputs[t].

    Args:
        gates: (B, T, D), or (D,) when constant over time.
        inputs: (B, T, D).
        initial_state: (B, D).
        lengths: (B,) steps of each row, or None for all T.

    Returns:
        (B, T, D) contiguous states; zero from `lengths` on.
    """
    states = torch.empty(inputs.shape, dtype=inputs.dtype)
    if states.numel() == 0:
        return states
    gates, inputs, initial_state = rows(gates), rows(inputs), plain(initial_state)
    lengths = None if lengths is None else lengths.contiguous()
    function(KERNEL, "forward", inputs.dtype, _FORWARD)(
        *(*strided(gates), *strided(inputs), initial_state.data_ptr(), states.data_ptr()),
        *(address(lengths), *inputs.shape, *threads()),
    )
    return states


@widened
def backward(
    gates: Tensor, states: Tensor, initial_state: Tensor, lengths: Tensor | None, grad_states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `forward`, by the adjoint recurrence g[t] = grad[t] + conj(gates[t+1]) * g[t+1].

    Args:
        gates: as given to `forward`.
        states: (B, T, D), what `forward` returned.
        initial_state: (B, D).
        lengths: as given to `forward`.
        grad_states: (B, T, D), gradient of the loss with respect to `states`.

    Returns:
        Gradients with respect to gates (in their shape), inputs (B, T, D) and initial state (B, D).
    """
    dtype = states.dtype
    grad_inputs = torch.empty(states.shape, dtype=dtype)
    if states.numel() == 0:
        return gates.new_zeros(gates.shape), grad_inputs, initial_state.new_zeros(initial_state.shape)
    grad_gates = torch.empty(gates.shape, dtype=dtype)
    grad_initial = torch.empty(initial_state.shape, dtype=dtype)
    # Sums over time, for constant gates: of each batch row, and of each chunk where threads share rows.
    wide = torch.complex128 if dtype.is_complex else torch.float64
    B, _, D = states.shape
    partial = torch.empty((B + torch.get_num_threads(), D), dtype=wide) if gates.dim() == 1 else None
    gates, states, grad_states, initial_state = rows(gates), rows(states), rows(grad_states), plain(initial_state)
    lengths = None if lengths is None else lengths.contiguous()
    function(KERNEL, "backward", dtype, _BACKWARD)(
        *(*strided(gates), *strided(states), initial_state.data_ptr(), *strided(grad_states)),
        *(address(tensor) for tensor in (grad_gates, grad_inputs, grad_initial, partial, lengths)),
        *(*states.shape, *threads()),
    )
    return grad_gates, grad_inputs, grad_initial
