"""Where a target item stands among all items, without ever holding all the scores.

    scores = states @ items.T + bias        a score of an excluded item is -∞
    better = how many scores are above the target's        ties = how many others are equal to it

Every ranking metric follows from the two counts. A backend goes once through blocks of scores that stay in a cache.
The C++ one adds a score up in the order of the channels wherever it stands, so that items with equal rows are ties
whatever the block, the batch and the number of threads.

Shapes: N states, V items, D width, E excluded items of a state.
"""

import torch
from torch import Tensor

from seqbench.ops.operator import Operator, Signature, check
from seqbench.precision import in_full

LARGEST_V = 2**31 - 1  # what a lane of a kernel counts to


@in_full
def rank_counts(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, excluded: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Count the items that score better than each state's target, and those that score the same.

    Args:
        states: (N, D).
        items: (V, D), same dtype and device as `states`; V below 2³¹.
        bias: (V,) added to the scores, or None.
        targets: (N,) int64 in [0, V).
        excluded: (N, E) int64 in [0, V): items that cannot be recommended, in any order, repeated or not. They are
            behind all others and level with each other, and so is a target among them.
        backend: name of a backend, or "auto".

    Returns:
        Counts better (N,) and ties (N,), int64, the target itself not counted; and finite (N,), bool: whether all
        scores of a row, excluded or not, are finite numbers. The counts of a row where they are not mean nothing.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        IndexError: a target or an excluded item is not in [0, V).
        UsageError: the backend is unknown or cannot run on this device.
    """
    check_table(states, items, bias)
    check_ids("targets", targets, states, items, 1)
    check_ids("excluded", excluded, states, items, 2)
    better, ties, finite = OPERATOR(states, items, bias, targets, excluded, backend=backend)
    return better, ties, finite


def check_table(states: Tensor, items: Tensor, bias: Tensor | None) -> None:
    """Check that states, items and bias have scores.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    if states.dim() != 2:
        raise ValueError(f"states must be (N, D), got {tuple(states.shape)}")
    if items.dim() != 2 or items.shape[1] != states.shape[1] or items.shape[0] == 0:
        raise ValueError(f"items must be (V, {states.shape[1]}) with at least one item, got {tuple(items.shape)}")
    if items.shape[0] > LARGEST_V:
        raise ValueError(f"items must be at most {LARGEST_V}, got {items.shape[0]}")
    if not states.is_floating_point():
        raise ValueError(f"states must be real floating-point numbers, got {states.dtype}")
    check("states", states, items=(items, items.shape), bias=(bias, items.shape[:1]))


def check_ids(name: str, ids: Tensor, states: Tensor, items: Tensor, dimensions: int) -> None:
    """Check that ids are int64, one row or number for each state, and those of items.

    Raises:
        ValueError: shape, dtype or device does not fit.
        IndexError: an id is not in [0, V).
    """
    if (
        ids.dim() != dimensions
        or ids.shape[0] != states.shape[0]
        or ids.dtype != torch.int64
        or ids.device != states.device
    ):
        wanted = f"({states.shape[0]}{', E' if dimensions == 2 else ','})"
        raise ValueError(
            f"{name} must be int64 of shape {wanted} on {states.device}, "
            f"got {ids.dtype} of {tuple(ids.shape)} on {ids.device}"
        )
    if ids.numel():
        lowest, highest = map(int, ids.aminmax())
        if lowest < 0 or highest >= items.shape[0]:
            wrong = lowest if lowest < 0 else highest
            raise IndexError(f"{name}: item {wrong} is out of bounds for {items.shape[0]} items")


def _empty(states, items, bias, targets, excluded):  # type: ignore[no-untyped-def]
    return *(torch.empty_like(targets) for _ in range(2)), torch.empty_like(targets, dtype=torch.bool)


OPERATOR = Operator(
    "rank_counts",
    Signature(
        "(Tensor states, Tensor items, Tensor? bias, Tensor targets, Tensor excluded) -> (Tensor, Tensor, Tensor)",
        empty=_empty,
    ),
)
