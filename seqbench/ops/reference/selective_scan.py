"""Mamba's scan step by step. Shapes: B batch, T time, D channels, N states per channel."""

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
    state = initial_state
    steps = F.softplus(deltas) if delta_softplus else deltas
    outputs = []
    for t in range(inputs.shape[1]):
        decayed = torch.exp(steps[:, t].unsqueeze(2) * decay) * state
        state = decayed + (steps[:, t] * inputs[:, t]).unsqueeze(2) * drive[:, t].unsqueeze(1)
        outputs.append((state * readout[:, t].unsqueeze(1)).sum(dim=2))
    y = torch.stack(outputs, dim=1) if outputs else torch.empty_like(inputs)
    if skip is not None:
        y = y + skip * inputs
    if gate is not None:
        y = y * F.silu(gate)
    return y, state.clone()
