"""What lists of recommendations are like besides containing the target or not.

Shapes: U users, K items of a list, V items of the catalogue. Lists are (U, K) item ids, 0 where a list is shorter.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def coverage(lists: Ints, items: int) -> float:
    """Return the share of the catalogue that is in at least one list."""
    return len(np.unique(lists[lists > 0])) / items


def gini(lists: Ints, items: int) -> float:
    """Return the Gini coefficient of how often items are recommended.

    0 if all items are in equally many lists, near 1 if a few are in all; items that are in none count as well.
    """
    counts = np.sort(np.bincount(lists[lists > 0], minlength=items + 1)[1:])
    weights = 2 * np.arange(1, items + 1) - items - 1
    return float((weights * counts).sum() / (items * counts.sum()))


def novelty(lists: Ints, popularity: Ints, audience: int) -> float:
    """Return the mean of log2(audience / popularity) over the items of all lists, in bits (Zhou et al., PNAS 2010).

    Args:
        popularity: (V + 1,) training users of each item; an item without any counts as if it had one.
        audience: training users.
    """
    shown = lists[lists > 0]
    return float(np.log2(audience / np.maximum(popularity[shown], 1)).mean())


def popularity_lift(lists: Ints, popularity: Ints, taste: Floats) -> float:
    """Return how many times more popular the recommended items are than those of the users' histories.

    Both popularities are averaged over items, then over users (Abdollahpouri et al., RecSys 2020, where 1 is
    subtracted).

    Args:
        taste: (U,) mean popularity of each user's history.
    """
    present = lists > 0
    filled = present.any(axis=1)
    means = (popularity[lists] * present).sum(axis=1)[filled] / present.sum(axis=1)[filled]
    return float(means.mean() / taste[filled].mean())


def overlap(seeds: Sequence[Ints]) -> float:
    """Return which share of a user's list is in that of another seed, over all users and pairs of seeds.

    Args:
        seeds: lists (U, K) of the same users for each of at least two seeds.
    """
    shares = []
    for first, second in itertools.combinations(seeds, 2):
        same = (first[:, :, None] == second[:, None, :]) & (first > 0)[:, :, None]
        shares.append(same.sum() / max(1, (first > 0).sum()))
    return float(np.mean(shares))
