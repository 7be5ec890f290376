"""The scan step by step. Shapes: B batch, T time, D channels."""

import torch
from torch import Tensor

from seqbench.ops.precision import widened


@widened
def forward(gates: Tensor, inputs: Tensor, initial_state: Tensor, lengths: Tensor | None) -> Tensor:
    """States (B, T, D) of h[t] = gates[t] * h[t-1] + inputs[t]; arguments as in `linear_scan`."""
    T = inputs.shape[1]
    state = initial_state
    states = []
    # Unbound and not indexed: the gradient of an index is as large as the whole, which would make T² of it.
    steps = zip((gates,) * T if gates.dim() == 1 else gates.unbind(1), inputs.unbind(1), strict=True)
    for t, (gate, value) in enumerate(steps):
        if lengths is None:
            state = gate * state + value
        else:  # not even a NaN of the padding may reach a gradient
            going = (t < lengths).unsqueeze(1)
            state = torch.where(going, torch.where(going, gate, 0) * state + value, 0)
        states.append(state)
    return torch.stack(states, dim=1) if states else torch.empty_like(inputs)
