"""The gated recurrence in a fixed number of operations. Shapes: B batch, T time, D channels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.parallel import scan


def forward(inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor) -> Tensor:
    """Return states (B, T, D); arguments as in `rg_lru`."""
    recurrence, gate = gates.chunk(2, dim=-1)
    alpha = torch.exp(-F.softplus(decay) * torch.sigmoid(recurrence))
    return scan(alpha, torch.sqrt(1 - alpha**2 + 1e-8) * torch.sigmoid(gate) * inputs, initial_state)
