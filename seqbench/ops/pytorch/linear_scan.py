"""The scan in plain PyTorch operations, forward and backward, on any device.

Two forms of the same recurrence. The *sequential* form is one `addcmul` per time step: nothing is read or
written twice, and it is the faster one as soon as a step has enough channels to outweigh the cost of
launching an operation. The *chunked* form is for few channels and long sequences: cut T into chunks, run all
chunks at once from a zero state (while multiplying up their gates), carry the state over the chunk ends, and
add what each chunk inherits. It needs about 2·√T operations instead of T. Neither divides by a gate or takes a
logarithm, so zero, negative and tiny gates are exact.

Shapes: B batch, T time, D channels, C chunks of K steps.
"""

import cmath
import math

import torch
from torch import Tensor

from seqbench.ops.precision import widened

# Bytes of one step (B·D elements) from which the sequential form is used. Measured on two CPU cores: with less,
# launching T operations dominates; with more, the chunked form's second pass over memory does. On a GPU a
# launch costs about as much as reading a few megabytes.
SEQUENTIAL_FROM = {"cpu": 128 * 1024, "cuda": 4 * 1024 * 1024}


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
    if lengths is not None:
        padding = _padding(inputs, lengths)
        result: Tensor = forward(gates, inputs.masked_fill(padding, 0), initial_state, None).masked_fill_(padding, 0)
        return result
    states = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    _run(gates, inputs, initial_state, states, reverse=False)
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
    if lengths is not None:
        padding = _padding(states, lengths)
        if gates.dim() == 3:
            gates = gates.masked_fill(padding, 0)
        grad_states = grad_states.masked_fill(padding, 0)
        result: tuple[Tensor, Tensor, Tensor] = backward(gates, states, initial_state, None, grad_states)
        return result
    conjugate = gates.conj().resolve_conj()
    grad_inputs = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    if states.shape[1] == 0:
        return gates.new_zeros(gates.shape), grad_inputs, initial_state.new_zeros(initial_state.shape)
    grad_inputs[:, -1] = grad_states[:, -1]
    later = conjugate if gates.dim() == 1 else conjugate[:, 1:]
    _run(later, grad_states[:, :-1], grad_states[:, -1], grad_inputs[:, :-1], reverse=True)
    first = conjugate if gates.dim() == 1 else conjugate[:, 0]
    grad_initial = torch.empty(initial_state.shape, dtype=states.dtype, device=states.device)
    torch.mul(first, grad_inputs[:, 0], out=grad_initial)
    if gates.dim() == 1:
        grad_gates = (grad_inputs[:, 1:] * states[:, :-1].conj()).sum(dim=(0, 1))
        grad_gates += (grad_inputs[:, 0] * initial_state.conj()).sum(dim=0)
    else:
        grad_gates = torch.empty_like(grad_inputs)
        torch.mul(grad_inputs[:, 1:], states[:, :-1].conj(), out=grad_gates[:, 1:])
        torch.mul(grad_inputs[:, 0], initial_state.conj(), out=grad_gates[:, 0])
    return grad_gates, grad_inputs, grad_initial


def _padding(sequences: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, 1), true from each row's length on."""
    steps = torch.arange(sequences.shape[1], device=lengths.device)
    return (steps >= lengths.unsqueeze(1)).unsqueeze(2)


def _run(gates: Tensor, inputs: Tensor, initial: Tensor, out: Tensor, *, reverse: bool) -> None:
    """out[t] = gates[t] * out[t∓1] + inputs[t], starting from `initial` at either end."""
    B, T, D = inputs.shape
    if inputs.numel() == 0:
        return
    if gates.dim() == 1:
        gates = gates.expand(1, 1, D)
    if T < 8 or B * D * inputs.element_size() >= SEQUENTIAL_FROM.get(inputs.device.type, 0):
        _sequential(gates, inputs, initial, out, reverse=reverse)
    else:
        _chunked(gates, inputs, initial, out, reverse=reverse)


def _steps(gates: Tensor, count: int) -> tuple[Tensor, ...]:
    """The gate of every step along dimension 1; a gate of length 1 serves all of them."""
    return gates.unbind(1) if gates.shape[1] == count else (gates[:, 0],) * count


def _sequential(gates: Tensor, inputs: Tensor, initial: Tensor, out: Tensor, *, reverse: bool) -> None:
    steps = list(zip(_steps(gates, inputs.shape[1]), inputs.unbind(1), out.unbind(1), strict=True))
    state = initial
    for gate, value, target in reversed(steps) if reverse else steps:
        torch.addcmul(value, gate, state, out=target)
        state = target


def _chunked(gates: Tensor, inputs: Tensor, initial: Tensor, out: Tensor, *, reverse: bool) -> None:
    B, T, D = inputs.shape
    K = max(2, math.isqrt(T))
    C = T // K
    whole = C * K  # the remainder is a last, shorter stretch that runs step by step
    constant = gates.shape[1] == 1
    head, tail = (slice(T - whole, T), slice(0, T - whole)) if reverse else (slice(0, whole), slice(whole, T))

    local = out[:, head].unflatten(1, (C, K))  # a view: chunks are written in place
    values = inputs[:, head].unflatten(1, (C, K))
    chunk_gates = gates.unsqueeze(1) if constant else gates[:, head].unflatten(1, (C, K))
    products = torch.empty(
        (*chunk_gates.shape[:2], K, D), dtype=out.dtype, device=out.device
    )  # of the gates from the chunk's first step on
    order = range(K - 1, -1, -1) if reverse else range(K)
    last = order[-1]
    previous = order[0]
    for k in order:
        gate = chunk_gates[:, :, 0 if constant else k]
        if k == order[0]:
            local[:, :, k] = values[:, :, k]
            products[:, :, k] = gate
        else:
            torch.addcmul(values[:, :, k], gate, local[:, :, previous], out=local[:, :, k])
            torch.mul(products[:, :, previous], gate, out=products[:, :, k])
        previous = k
    # A product that has overflown says nothing of the state that it would multiply, which may be zero or tiny.
    if not cmath.isfinite(products[:, :, last].sum().item()):
        _sequential(gates, inputs, initial, out, reverse=reverse)
        return

    carries = torch.empty((B, C, D), dtype=out.dtype, device=out.device)  # the state that enters each chunk
    state = initial
    for c in range(C - 1, -1, -1) if reverse else range(C):
        carries[:, c] = state
        state = torch.addcmul(local[:, c, last], products[:, 0 if constant else c, last], state)
    local.addcmul_(products, carries.unsqueeze(2))
    if whole < T:
        rest = gates if constant else gates[:, tail]
        _sequential(rest, inputs[:, tail], state, out[:, tail], reverse=reverse)
