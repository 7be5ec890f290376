"""HR, NDCG and MRR of one relevant item, from two counts: items ranked strictly better, and others tied with it.

Equal scores count as their expectation over random tie-breaking: a model that scores everything alike gets chance
level, not a perfect or a zero score.
"""

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10, 20)
METRICS = tuple(f"{name}@{k}" for k in CUTOFFS for name in ("hr", "ndcg", "mrr"))


def per_user(metric: str, better: NDArray[np.int64], ties: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected value of a metric such as "ndcg@10" for each user.

    With r the 1-based rank of the relevant item: HR@k = [r ≤ k], NDCG@k = [r ≤ k] / log2(r + 1), MRR@k = [r ≤ k] / r,
    and r is uniform on better + 1 … better + ties + 1.

    Args:
        better: (U,) items that score strictly higher.
        ties: (U,) other items with exactly the same score.
    """
    name, _, cutoff = metric.partition("@")
    ranks = np.arange(1, int(cutoff) + 1)
    gains = {"hr": np.ones(len(ranks)), "ndcg": 1 / np.log2(ranks + 1), "mrr": 1 / ranks}[name]
    cumulative = np.concatenate([[0.0], np.cumsum(gains)])
    first = np.minimum(better, len(ranks))
    last = np.minimum(better + ties + 1, len(ranks))
    return (cumulative[last] - cumulative[first]) / (ties + 1)


def means(better: NDArray[np.int64], ties: NDArray[np.int64]) -> dict[str, float]:
    """Every standard metric's mean over users."""
    return {metric: float(per_user(metric, better, ties).mean()) for metric in METRICS}
