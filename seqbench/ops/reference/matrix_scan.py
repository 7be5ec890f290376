"""The recurrence of matrix states step by step.

Shapes: B batch, T time, H heads, K channels of queries and keys, V channels of values.
"""

import torch
from torch import Tensor

from seqbench.ops.functions.matrix_scan import Arguments
from seqbench.ops.precision import widened


@widened
def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, H, V) and the final state (B, H, K, V)."""
    *sequences, state = scan
    outputs = []
    # Unbound and not indexed: the gradient of an index is as large as the whole, which would make T² of it.
    for q, k, v, g in zip(*(tensor.unbind(1) for tensor in sequences), strict=True):
        state = torch.exp(g).unsqueeze(2).unsqueeze(3) * state + k.unsqueeze(3) * v.unsqueeze(2)
        outputs.append((q.unsqueeze(3) * state).sum(dim=2))
    return torch.stack(outputs, dim=1) if outputs else torch.empty_like(scan.value), state.clone()
