"""RecBLR's recurrence step by step. Shapes: B batch, T time, D channels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.precision import widened


@widened
def forward(inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor) -> Tensor:
    """States (B, T, D); arguments as in `rg_lru`."""
    r, g = gates.chunk(2, dim=-1)
    rate = -F.softplus(decay) * torch.sigmoid(r)
    alpha = torch.exp(rate)
    # expm1 for 1 - α², of which nothing but rounding would be left where α is near 1.
    driven = torch.sqrt(1e-8 - torch.expm1(2 * rate)) * torch.sigmoid(g) * inputs
    state = initial_state
    states = []
    # Unbound and not indexed: the gradient of an index is as large as the whole, which would make T² of it.
    for gate, value in zip(alpha.unbind(1), driven.unbind(1), strict=True):
        state = gate * state + value
        states.append(state)
    return torch.stack(states, dim=1) if states else torch.empty_like(inputs)
