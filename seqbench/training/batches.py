"""Batches of rows of similar length, in another composition and order in every epoch."""

from collections.abc import Iterator

import numpy as np

from seqbench.data.sequences import Ints


def batches(
    lengths: Ints, targets: Ints, size: int, pool_batches: int, generator: np.random.Generator
) -> Iterator[Ints]:
    """Yield the row indices of each batch: similar lengths together, everything else shuffled.

    A batch holds about as many targets as `size` rows do on average: of rows that are trained at all positions,
    more short ones than long ones. With as many in each, and a loss that is the mean over a batch, a position in a
    short row would weigh several times as much as one in a long row.

    Args:
        lengths: (R,) items of each row.
        targets: (R,) targets of each row.
        pool_batches: rows are sorted by length within shuffled pools of this many batches.
    """
    budget = size * targets.mean()
    order = generator.permutation(len(lengths))
    made: list[Ints] = []
    for at in range(0, len(order), size * pool_batches):
        pool = order[at : at + size * pool_batches]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        total = targets[pool].sum()
        share = total / max(1, round(total / budget))  # an even one: no batch of a pool is what was left over
        before = np.cumsum(targets[pool]) - targets[pool]
        made += np.split(pool, np.flatnonzero(np.diff(before // share)) + 1)
    for index in generator.permutation(len(made)):
        yield made[index]
