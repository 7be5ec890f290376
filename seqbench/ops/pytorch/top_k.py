"""The best items in PyTorch operations, one block of items after the other, on any device.

Shapes: N states, V items, D width, E excluded items of a state, S items of a block, K best items.
"""

import torch
from torch import Tensor

from seqbench.ops.precision import widened
from seqbench.ops.pytorch.scores import block_items, blocks


@widened
def forward(states: Tensor, items: Tensor, bias: Tensor | None, excluded: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return scores (N, k) and ids (N, k), k ≤ V; arguments as in `top_k`."""
    N, size = states.shape[0], block_items(states, items)
    best = states.new_full((N, k), -torch.inf)
    ids = torch.zeros((N, k), dtype=torch.int64, device=states.device)
    rows = torch.arange(N, device=states.device).repeat_interleave(excluded.shape[1])
    out, order = excluded.flatten().sort()
    rows = rows[order]
    for first, seen, scores in blocks(states, items, bias, size):
        scores[:, :seen] = -torch.inf
        start, stop = torch.searchsorted(out, torch.tensor([first, first + size], device=out.device)).tolist()
        scores[rows[start:stop], out[start:stop] - first] = -torch.inf
        scores.masked_fill_(scores.isnan(), -torch.inf)
        above = scores > best[:, -1:]  # one that is level with the last has a higher id than all of the best
        row, place = above.nonzero(as_tuple=True)
        if len(row) == 0:
            continue
        counts = above.sum(dim=1)
        within = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        width = k + int(counts.max())
        candidates, origins = best.new_full((N, width), -torch.inf), ids.new_zeros((N, width))
        candidates[:, :k], origins[:, :k] = best, ids
        candidates[row, k + within], origins[row, k + within] = scores[row, place], place + first
        order = candidates.sort(dim=1, descending=True, stable=True).indices[:, :k]
        best, ids = candidates.gather(1, order), origins.gather(1, order)
    return best, ids
