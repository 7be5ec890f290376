"""The recurrence of matrix states in a fixed number of operations.

Shapes: B batch, T time, H heads, K channels of queries and keys, V channels of values.
"""

import torch
from torch import Tensor

from seqbench.ops.functions.matrix_scan import Arguments


def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, H, V) and the final state (B, H, K, V); weights (B, H, T, T) are in memory at once."""
    query, key, value = (tensor.transpose(1, 2) for tensor in scan[:3])
    logs = scan.log_decay.transpose(1, 2)  # (B, H, T)
    steps = torch.arange(logs.shape[2], device=logs.device)
    later = steps.unsqueeze(1) > steps
    within = torch.where(later, logs.unsqueeze(3), 0.0).cumsum(dim=2).exp().tril()
    enter = logs.cumsum(dim=2).exp().unsqueeze(3)
    outputs = (query @ key.mT * within) @ value + (enter * query) @ scan.initial_state
    final = (within[:, :, -1].unsqueeze(3) * key).mT @ value + enter[:, :, -1:] * scan.initial_state
    return outputs.transpose(1, 2), final
