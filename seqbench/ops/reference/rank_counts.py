"""Counts from all scores at once. Shapes: N states, V items, D width, E excluded items of a state."""

import torch
from torch import Tensor

from seqbench.ops.precision import widened


@widened
def forward(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, excluded: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return better (N,), ties (N,) and finite (N,); arguments as in `rank_counts`."""
    scores = states @ items.t()
    if bias is not None:
        scores = scores + bias
    finite = torch.isfinite(scores).all(dim=1)
    scores = scores.scatter(1, excluded, -torch.inf)
    level = scores.gather(1, targets.unsqueeze(1))
    return (scores > level).sum(dim=1), (scores == level).sum(dim=1) - 1, finite
