"""Mamba's scan in PyTorch operations, forward and backward, on any device.

A loop over time with one state of shape (B, D, N). The backward pass keeps the state before every chunk of √T steps,
and takes the chunks from the last to the first: states of one chunk at a time are computed again and held.

Shapes: B batch, T time, D channels, N states per channel, K steps of a chunk; sequences have time first within.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.functions.selective_scan import Arguments
from seqbench.ops.precision import widened


@widened
def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, D) and the final state (B, D, N)."""
    inputs, deltas, decay, drive, readout, skip, gate, initial_state, softplus = scan
    steps = F.softplus(deltas) if softplus else deltas
    driven = steps * inputs
    state = initial_state.clone(memory_format=torch.contiguous_format)
    outputs = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    for t in range(inputs.shape[1]):
        _step(state, steps[:, t], driven[:, t], decay, drive[:, t])
        outputs[:, t] = torch.bmm(state, readout[:, t].unsqueeze(2)).squeeze(2)
    if skip is not None:
        outputs.addcmul_(skip, inputs)
    if gate is not None:
        outputs *= F.silu(gate)
    return outputs, state


@widened
def backward(scan: Arguments, grad_outputs: Tensor, grad_final: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of `forward` with respect to its eight tensors; an empty one where there was none.

    Args:
        scan: as given to `forward`.
        grad_outputs: (B, T, D), gradient of the loss with respect to the outputs.
        grad_final: (B, D, N), the same for the final state.
    """
    inputs, deltas, decay, drive, readout, skip, gate, initial_state, softplus = scan
    T = inputs.shape[1]
    decay = decay.contiguous()  # results of elementwise operations have the layout of their operands
    x, raw, B, C = (tensor.transpose(0, 1) for tensor in (inputs, deltas, drive, readout))
    steps = F.softplus(raw) if softplus else raw
    driven = steps * x
    grad_y = grad_outputs.transpose(0, 1)  # of y before the gate
    if gate is not None:
        grad_y = grad_y * F.silu(gate.transpose(0, 1))

    K = max(1, math.isqrt(T))
    chunks = [slice(start, min(start + K, T)) for start in range(0, T, K)]
    state = initial_state.clone(memory_format=torch.contiguous_format)
    checkpoints = []
    for chunk in chunks:
        checkpoints.append(state.clone())
        for t in range(chunk.start, chunk.stop):
            _step(state, steps[t], driven[t], decay, B[t])

    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_steps, grad_driven = torch.empty_like(y), torch.empty_like(y)
    grad_drive, grad_readout = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (B, C))
    grad_decay = torch.zeros_like(decay)
    grad_state = grad_final.clone(memory_format=torch.contiguous_format)
    for chunk, state in zip(reversed(chunks), reversed(checkpoints), strict=True):
        decays = torch.exp(steps[chunk].unsqueeze(3) * decay)  # (K, B, D, N), as all of a chunk
        states = torch.empty((decays.shape[0] + 1, *state.shape), dtype=state.dtype, device=state.device)
        states[0] = state
        for k, t in enumerate(range(chunk.start, chunk.stop)):
            torch.mul(decays[k], states[k], out=states[k + 1])
            states[k + 1].addcmul_(driven[t].unsqueeze(2), B[t].unsqueeze(1))
        y[chunk] = _times(states[1:], C[chunk])
        grads = torch.empty_like(decays)
        for k in reversed(range(len(decays))):
            t = chunk.start + k
            torch.addcmul(grad_state, grad_y[t].unsqueeze(2), C[t].unsqueeze(1), out=grads[k])
            torch.mul(decays[k], grads[k], out=grad_state)
        grad_readout[chunk] = _times(states[1:].mT, grad_y[chunk])
        grad_drive[chunk] = _times(grads.mT, driven[chunk])
        grad_driven[chunk] = _times(grads, B[chunk])
        exponents = grads.mul_(decays).mul_(states[:-1])  # gradients of Δ·A
        grad_steps[chunk] = (exponents * decay).sum(dim=3)
        grad_decay += (exponents * steps[chunk].unsqueeze(3)).sum(dim=(0, 1))

    grad_steps.addcmul_(grad_driven, x)
    if softplus:
        grad_steps *= torch.sigmoid(raw)
    grad_inputs = grad_driven.mul_(steps)
    grad_skip, grad_gate = inputs.new_empty(0), inputs.new_empty(0)
    if skip is not None:
        grad_inputs.addcmul_(grad_y, skip)
        grad_skip = (grad_y * x).sum(dim=(0, 1))
        y.addcmul_(skip, x)
    if gate is not None:
        opened = torch.sigmoid(gate)
        grad_gate = (grad_outputs * y.transpose(0, 1) * opened * (1 + gate * (1 - opened))).contiguous()
    batch_first = (
        tensor.transpose(0, 1).contiguous() for tensor in (grad_inputs, grad_steps, grad_drive, grad_readout)
    )
    grad_inputs, grad_deltas, grad_drive, grad_readout = batch_first
    return grad_inputs, grad_deltas, grad_decay, grad_drive, grad_readout, grad_skip, grad_gate, grad_state


def _step(state: Tensor, steps: Tensor, driven: Tensor, decay: Tensor, drive: Tensor) -> None:
    """state (B, D, N) = exp(Δ·A) ⊙ state + driven ⊗ drive, in place."""
    state.mul_(torch.mul(steps.unsqueeze(2), decay).exp_())
    state.addcmul_(driven.unsqueeze(2), drive.unsqueeze(1))


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(…, n, m) matrices times (…, m) vectors."""
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)
