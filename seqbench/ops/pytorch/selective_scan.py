"""Mamba's scan in PyTorch operations, a few per step over the states of all channels, forward and backward.

Forward keeps nothing but the last states; backward keeps those before every chunk of √T steps, and computes the others
again, chunk by chunk.

Shapes: B batch, T time, D channels, N states per channel, K steps of a chunk.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.precision import widened


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
    steps = F.softplus(deltas) if delta_softplus else deltas
    driven = steps * inputs
    state = initial_state.clone()
    outputs = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    for t in range(inputs.shape[1]):
        _advance(state, _decays(steps, decay, t), driven, drive, t)
        outputs[:, t] = _product(state, readout[:, t])
    if skip is not None:
        outputs.addcmul_(inputs, skip)
    if gate is not None:
        outputs.mul_(F.silu(gate))
    return outputs, state


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
    """Gradients of the eight tensors in their order, empty for those that were not given.

    Args:
        inputs … delta_softplus: as given to `forward`.
        grad_outputs: (B, T, D), gradient of the loss with respect to the outputs.
        grad_final: (B, D, N), the same for the final state.
    """
    T = inputs.shape[1]
    steps = F.softplus(deltas) if delta_softplus else deltas
    driven = steps * inputs
    grad_y = grad_outputs if gate is None else grad_outputs * F.silu(gate)
    ungated = torch.empty_like(inputs)  # C·S + skip·x, which the gate's gradient needs
    grad_driven, grad_steps = torch.empty_like(inputs), torch.empty_like(inputs)
    grad_drive, grad_readout = torch.empty_like(drive), torch.empty_like(readout)
    grad_decay = torch.zeros_like(decay)
    grad_state = grad_final.clone()

    K = max(1, math.isqrt(T))
    state = initial_state.clone()
    checkpoints = []
    for t in range(T):
        if t % K == 0:
            checkpoints.append(state.clone())
        _advance(state, _decays(steps, decay, t), driven, drive, t)
    for chunk in range(len(checkpoints) - 1, -1, -1):
        times = range(chunk * K, min(T, chunk * K + K))
        decays, states = [], [checkpoints[chunk]]
        for t in times:
            decays.append(_decays(steps, decay, t))
            states.append(_advance(states[-1].clone(), decays[-1], driven, drive, t))
            ungated[:, t] = _product(states[-1], readout[:, t])
        for t in reversed(times):
            after, before, factor = states.pop(), states[-1], decays.pop()
            grad_readout[:, t] = _product(after.transpose(1, 2), grad_y[:, t])
            grad_state.addcmul_(grad_y[:, t].unsqueeze(2), readout[:, t].unsqueeze(1))
            grad_drive[:, t] = _product(grad_state.transpose(1, 2), driven[:, t])
            grad_driven[:, t] = _product(grad_state, drive[:, t])
            grad_state.mul_(factor)
            grad_exponent = grad_state * before
            grad_steps[:, t] = (grad_exponent * decay).sum(dim=2)
            grad_decay += (grad_exponent * steps[:, t].unsqueeze(2)).sum(dim=0)

    grad_steps.addcmul_(grad_driven, inputs)
    grad_inputs = grad_driven.mul_(steps)
    grad_skip, grad_gate = inputs.new_empty(0), inputs.new_empty(0)
    if skip is not None:
        ungated.addcmul_(inputs, skip)
        grad_skip = (grad_y * inputs).sum(dim=(0, 1))
        grad_inputs.addcmul_(grad_y, skip)
    if gate is not None:
        opening = torch.sigmoid(gate)
        grad_gate = grad_outputs * ungated * opening * (1 + gate * (1 - opening))
    grad_deltas = grad_steps * torch.sigmoid(deltas) if delta_softplus else grad_steps
    return grad_inputs, grad_deltas, grad_decay, grad_drive, grad_readout, grad_skip, grad_gate, grad_state


def _decays(steps: Tensor, decay: Tensor, t: int) -> Tensor:
    """(B, D, N), exp(Δ[t]·A)."""
    return (steps[:, t].unsqueeze(2) * decay).exp_()


def _advance(state: Tensor, decays: Tensor, driven: Tensor, drive: Tensor, t: int) -> Tensor:
    """Take step t with a state (B, D, N), in place."""
    return state.mul_(decays).addcmul_(driven[:, t].unsqueeze(2), drive[:, t].unsqueeze(1))


def _product(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(B, M) from (B, M, N) and (B, N)."""
    return torch.bmm(matrices, vectors.unsqueeze(2)).squeeze(2)
