"""All scores, one block of items after the other. Shapes: N states, V items, D width, S items of a block."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Scores of a block: what stays in the caches of a core, or what fills a GPU.
BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}
LEAST_ITEMS = 64


def block_items(states: Tensor, items: Tensor) -> int:
    """Return how many items a block has."""
    row_bytes = max(1, states.shape[0]) * states.element_size()
    fitting = BLOCK_BYTES.get(states.device.type, 2 << 20) // row_bytes
    return min(max(LEAST_ITEMS, fitting), items.shape[0])


def blocks(states: Tensor, items: Tensor, bias: Tensor | None, size: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (first item, items seen before, scores (N, S)) for blocks of `size` items, in their order.

    All blocks are of the same shape, since products of other shapes may round in another way: the last one begins
    with items that have been seen. The memory of the scores is used again.
    """
    V = items.shape[0]
    scores = states.new_empty(states.shape[0], size)
    for start in range(0, V, size):
        first = min(start, V - size)
        torch.mm(states, items[first : first + size].t(), out=scores)
        if bias is not None:
            scores += bias[first : first + size]
        yield first, start - first, scores
