"""Summaries of repeated measurements."""

import statistics
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of n values; None where there are too few of them."""

    mean: float | None
    std: float | None
    n: int


def summarise(values: Collection[float]) -> Summary:
    """Mean of the values, and their standard deviation with n - 1 in the denominator.

    One value says nothing about the spread, so its `std` is None and not 0.
    """
    n = len(values)
    return Summary(
        mean=statistics.fmean(values) if n else None,
        std=statistics.stdev(values) if n > 1 else None,
        n=n,
    )
