"""The scan step by step. Shapes: B batch, T time, D channels."""

import torch
from torch import Tensor

from seqbench.ops.precision import widened


@widened
def forward(gates: Tensor, inputs: Tensor, initial_state: Tensor, lengths: Tensor | None) -> Tensor:
    """States (B, T, D) of h[t] = gates[t] * h[t-1] + inputs[t]; arguments as in `linear_scan`."""
    state = initial_state
    states = []
    for t in range(inputs.shape[1]):
        gate = gates if gates.dim() == 1 else gates[:, t]
        if lengths is None:
            state = gate * state + inputs[:, t]
        else:  # not even a NaN of the padding may reach a gradient
            going = (t < lengths).unsqueeze(1)
            state = torch.where(going, torch.where(going, gate, 0) * state + inputs[:, t], 0)
        states.append(state)
    return torch.stack(states, dim=1) if states else torch.empty_like(inputs)
