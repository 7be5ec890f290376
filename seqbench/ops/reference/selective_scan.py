"""Mamba's scan step by step. Shapes: B batch, T time, D channels, N states per channel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.functions.selective_scan import Arguments
from seqbench.ops.precision import widened


@widened
def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, D) and the final state (B, D, N)."""
    inputs, deltas, decay, drive, readout, skip, gate, state, softplus = scan
    steps = F.softplus(deltas) if softplus else deltas
    outputs = []
    # Unbound and not indexed: the gradient of an index is as large as the whole, which would make T² of it.
    for x, delta, b, c in zip(*(tensor.unbind(1) for tensor in (inputs, steps, drive, readout)), strict=True):
        decayed = torch.exp(delta.unsqueeze(2) * decay) * state
        state = decayed + (delta * x).unsqueeze(2) * b.unsqueeze(1)
        outputs.append((state * c.unsqueeze(1)).sum(dim=2))
    y = torch.stack(outputs, dim=1) if outputs else torch.empty_like(inputs)
    if skip is not None:
        y = y + skip * inputs
    if gate is not None:
        y = y * F.silu(gate)
    return y, state.clone()
