"""Counts in PyTorch operations, one block of items after the other, on any device.

Shapes: N states, V items, D width, E excluded items of a state, S items of a block.
"""

import torch
from torch import Tensor

from seqbench.ops.precision import widened
from seqbench.ops.pytorch.scores import block_items, blocks


@widened
def forward(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, excluded: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return better (N,), ties (N,) and finite (N,); arguments as in `rank_counts`."""
    N, V = states.shape[0], items.shape[0]
    size = block_items(states, items)
    level = _target_scores(states, items, bias, targets, size).unsqueeze(1)
    better, ties = torch.zeros_like(targets), torch.zeros_like(targets)
    finite = torch.ones(N, dtype=torch.bool, device=states.device)
    # What is not counted: pairs of a row and an item, in the order of the items.
    rows = torch.arange(N, device=states.device)
    ids, order = torch.cat([targets, excluded.flatten()]).sort()
    rows = torch.cat([rows, rows.repeat_interleave(excluded.shape[1])])[order]
    for first, seen, scores in blocks(states, items, bias, size):
        finite &= torch.isfinite(scores).all(dim=1)
        scores[:, :seen] = torch.nan  # which is neither above nor level
        start, stop = torch.searchsorted(ids, torch.tensor([first, first + size], device=ids.device)).tolist()
        scores[rows[start:stop], ids[start:stop] - first] = torch.nan
        better += (scores > level).sum(dim=1)
        ties += (scores == level).sum(dim=1)
    removed = (excluded == targets.unsqueeze(1)).any(dim=1)
    ordered = excluded.sort(dim=1).values
    distinct = (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1) + min(1, excluded.shape[1])
    # An excluded target is behind all that compete, and level with the others that are excluded.
    return torch.where(removed, V - distinct, better), torch.where(removed, distinct - 1, ties), finite


def _target_scores(states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, size: int) -> Tensor:
    """Return (N,) scores of the targets, from products of the same shape as all others."""
    found = states.new_empty(len(targets))
    for start in range(0, len(targets), size):
        chosen = targets[start : start + size]
        missing = size - len(chosen)
        block = torch.cat([chosen, chosen.new_zeros(missing)])
        ((_, _, scores),) = blocks(states, items[block], None if bias is None else bias[block], size)
        found[start : start + size] = scores[start : start + size].diagonal()
    return found
