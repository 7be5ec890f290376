"""Figures of a data set: sizes, lengths, popularity, repeats, times, and what its splits give away."""

import datetime
from dataclasses import dataclass

import numpy as np

from seqbench.columns import ITEM, TIMESTAMP, USER
from seqbench.data.log import UNITS, Log
from seqbench.data.prepared import PreparedDataset

QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "90 %": 0.9, "99 %": 0.99, "max": 1.0}
HEADS = (0.01, 0.1, 0.2)  # shares of the items, the most popular ones


@dataclass(frozen=True)
class Description:
    """Figures of a prepared data set. Shares are of the interactions, unless said otherwise."""

    users: int
    items: int
    interactions: int
    density: float  # interactions over users times items
    mean_length: float
    lengths: dict[str, int]  # quantile → interactions per user
    item_counts: dict[str, int]  # quantile → interactions per item
    heads: dict[str, float]  # most popular items → share
    repeated: float  # the user had met the item before
    repeated_at_once: float  # the user's interaction before was with the same item
    tied: float | None  # the same user has another one at the same time; None without times
    first: str | None  # ISO dates in UTC
    last: str | None
    later_training: float | None  # of the training part of leave-one-out, later than a test target, on average
    new_targets: float  # test targets of leave-one-out whose item is not in the training part


def describe(prepared: PreparedDataset) -> Description:
    """Read a data set and count.

    Raises:
        SeqbenchError: the data set is damaged.
    """
    log = prepared.load()
    users, items, times = log[USER], log[ITEM], log[TIMESTAMP]
    lengths, popularity = np.bincount(users)[1:], np.bincount(items)[1:]
    unit = prepared.meta["timestamp_unit"]
    timed = unit in UNITS
    pairs = np.lexsort((items, users))  # stable: of a pair, the first comes first
    again = (users[pairs][1:] == users[pairs][:-1]) & (items[pairs][1:] == items[pairs][:-1])
    ranked = np.sort(popularity)[::-1]
    later, new = _leave_one_out(log, lengths)
    return Description(
        users=prepared.users,
        items=prepared.items,
        interactions=prepared.interactions,
        density=prepared.interactions / prepared.users / prepared.items,
        mean_length=float(lengths.mean()),
        lengths=_quantiles(lengths),
        item_counts=_quantiles(popularity),
        heads={f"{head:.0%}": float(ranked[: max(1, round(head * len(ranked)))].sum() / len(users)) for head in HEADS},
        repeated=float(again.sum() / len(users)),
        repeated_at_once=float(((users[1:] == users[:-1]) & (items[1:] == items[:-1])).sum() / len(users)),
        tied=_tied(users, times) if timed else None,
        first=_date(int(times.min()), unit) if timed else None,
        last=_date(int(times.max()), unit) if timed else None,
        later_training=later if timed else None,
        new_targets=new,
    )


def _quantiles(counts: np.ndarray) -> dict[str, int]:
    values = np.quantile(counts, list(QUANTILES.values()), method="inverted_cdf")
    return {name: int(value) for name, value in zip(QUANTILES, values, strict=True)}


def _tied(users: np.ndarray, times: np.ndarray) -> float:
    order = np.lexsort((times, users))
    same = (users[order][1:] == users[order][:-1]) & (times[order][1:] == times[order][:-1])
    tied = np.zeros(len(users), bool)
    tied[1:] |= same
    tied[:-1] |= same
    return float(tied.mean())


def _leave_one_out(log: Log, lengths: np.ndarray) -> tuple[float, float]:
    """The mean share of training interactions that are later than a test target; the share of targets that are new."""
    users, items, times = log[USER], log[ITEM], log[TIMESTAMP]
    last = np.cumsum(lengths) - 1
    tested = last[lengths >= 3]
    if not len(tested):
        return 0.0, 0.0
    training = np.ones(len(users), bool)
    training[tested] = training[tested - 1] = False
    sorted_times = np.sort(times[training])
    later = len(sorted_times) - np.searchsorted(sorted_times, times[tested], side="right")
    met = np.zeros(int(items.max()) + 1, bool)
    met[items[training]] = True
    return float(later.mean() / len(sorted_times)), float((~met[items[tested]]).mean())


def _date(time: int, unit: str) -> str:
    try:
        return datetime.datetime.fromtimestamp(time // UNITS[unit], datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return str(time)
