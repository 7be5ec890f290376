"""From filtered interactions to what is stored: ids from 1, and counts beside the published ones."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from seqbench.columns import ITEM, SPLIT, USER
from seqbench.data import selection
from seqbench.data.catalog import Expected
from seqbench.data.log import PARTS, Log
from seqbench.errors import SeqbenchError


def index(log: Log) -> Log:
    """Number the users and items that are left from 1, in the order of their raw ids.

    Args:
        log: sorted by user, then time; taken over, its arrays are reused.

    Raises:
        SeqbenchError: a user's training comes after validation or test, where the source says what is which.
    """
    users = selection.contiguous(log[USER], len(log.users))
    items = selection.contiguous(log[ITEM], len(log.items))
    log.users, log.items = log.users.filter(pa.array(users)), log.items.filter(pa.array(items))
    if SPLIT in log:
        _check_parts(log)
    return log


def _check_parts(log: Log) -> None:
    users, parts = log[USER], log[SPLIT]
    back = np.flatnonzero((users[1:] == users[:-1]) & (parts[1:] < parts[:-1]))
    if len(back):
        at = back[0]
        raise SeqbenchError(
            f"The split is not in the order of events: user {log.users[int(users[at]) - 1]} has a row marked "
            f"{PARTS[parts[at + 1]]} after one marked {PARTS[parts[at]]} ({len(back):,} such places).",
            hint="Give a time or position column in which every user's training comes before validation and test.",
        )


def count(log: Log) -> dict[str, Any]:
    """Return users, items, interactions, mean_length and max_length."""
    return {
        "users": len(log.users),
        "items": len(log.items),
        "interactions": len(log),
        "mean_length": round(len(log) / len(log.users), 1),
        "max_length": int(selection.count(log[USER]).max()),
    }


def mismatch(expected: Expected, raw: dict[str, Any], prepared: dict[str, Any], *, same_filters: bool) -> str | None:
    """Return words for every count that differs from the published one, or None if there is none.

    Args:
        expected: the published counts.
        raw: those of the raw files, and `prepared` those of what is left.
        same_filters: whether `prepared` is comparable.
    """
    words = []
    for prefix, ours, published in (("raw ", raw, expected.raw), ("", prepared, expected.prepared)):
        if published is None or (published is expected.prepared and not same_filters):
            continue
        words += [
            f"{prefix}{key} {ours[key]:,} (published {value:,})"
            for key, value in asdict(published).items()
            if value is not None and ours[key] != value
        ]
    return ", ".join(words) or None
