"""The items with the highest scores, without ever holding all the scores.

    scores = states @ items.T + bias        an excluded item is left out

Scores are those of `rank_counts`, bit for bit within a backend. Shapes: N states, V items, D width, E excluded items of
a state, K best items.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.functions.rank_counts import check_ids, check_table
from seqbench.ops.operator import Operator, Signature
from seqbench.precision import in_full


@in_full
def top_k(
    states: Tensor, items: Tensor, bias: Tensor | None, excluded: Tensor, k: int, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Find the k items with the highest scores for each state; of equal scores the one with the lower id comes first.

    Args:
        states: (N, D).
        items: (V, D), same dtype and device as `states`; V below 2³¹.
        bias: (V,) added to the scores, or None.
        excluded: (N, E) int64 in [0, V): items to leave out, in any order, repeated or not.
        k: how many, at least 1.
        backend: name of a backend, or "auto".

    Returns:
        Scores (N, k), descending, and ids (N, k), int64. Where fewer than k items are left, or have a score that is a
        number above -∞, scores are -∞ and ids 0.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or k is below 1.
        IndexError: an excluded item is not in [0, V).
        UsageError: the backend is unknown or cannot run on this device.
    """
    check_table(states, items, bias)
    check_ids("excluded", excluded, states, items, 2)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    missing = max(0, k - items.shape[0])
    scores, ids = OPERATOR(states, items, bias, excluded, k - missing, backend=backend)
    return (F.pad(scores, (0, missing), value=-torch.inf), F.pad(ids, (0, missing))) if missing else (scores, ids)


def _empty(states, items, bias, excluded, k):  # type: ignore[no-untyped-def]
    shape = (states.shape[0], k)
    return states.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=states.device)


OPERATOR = Operator(
    "top_k",
    Signature("(Tensor states, Tensor items, Tensor? bias, Tensor excluded, int k) -> (Tensor, Tensor)", empty=_empty),
)
