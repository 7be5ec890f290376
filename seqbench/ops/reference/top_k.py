"""The best items from all scores at once. Shapes: N states, V items, D width, E excluded items of a state, K best."""

import torch
from torch import Tensor

from seqbench.ops.precision import widened


@widened
def forward(states: Tensor, items: Tensor, bias: Tensor | None, excluded: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return scores (N, k) and ids (N, k), k ≤ V; arguments as in `top_k`."""
    scores = states @ items.t()
    if bias is not None:
        scores = scores + bias
    scores = scores.scatter(1, excluded, -torch.inf).masked_fill(scores.isnan(), -torch.inf)
    values, ids = scores.sort(dim=1, descending=True, stable=True)
    values = values[:, :k].contiguous()
    return values, ids[:, :k].where(values > -torch.inf, 0)
