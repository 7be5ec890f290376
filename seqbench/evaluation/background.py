"""What is known of the test users besides their ranking, and groups of users that follow from it.

Shapes: U test users, V items.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqbench.columns import ITEM, SPLIT, TIMESTAMP, USER
from seqbench.data.log import UNITS
from seqbench.data.prepared import open_prepared
from seqbench.data.sequences import Sequences, split_sequences
from seqbench.errors import SeqbenchError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DAY = 86400  # seconds
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Background:
    """Histories, targets and popularity of one data set under one split."""

    users: Ints  # (U,) ids
    targets: Ints  # (U,) item ids
    histories: Ints  # (U,) interactions before the target
    popularity: Ints  # (V + 1,) users who have the item in their training part
    audience: int  # users who have a training part
    taste: Floats  # (U,) mean popularity of the items in the history
    ages: Ints | None  # (U,) whole days from the first interaction with the target's item to the target; None: no times


@dataclass(frozen=True)
class Bucket:
    """Test users who have something in common."""

    title: str  # such as "15–40"
    members: NDArray[np.bool_]  # (U,)


def read_background(dataset: str, fingerprint: str, split: str, home: Path) -> Background:
    """Read the prepared data set that a run was made with.

    Raises:
        SeqbenchError: it is not prepared here, or not as it was.
    """
    prepared = open_prepared(dataset, home)
    if prepared.fingerprint != fingerprint:
        raise SeqbenchError(
            f"{dataset} is prepared otherwise than it was for the stored runs.",
            hint="Prepare it with the options of that time.",
        )
    log = prepared.load()
    sequences = split_sequences(log[USER], log[ITEM], log[TIMESTAMP], log.get(SPLIT), split=split)
    parts = UNITS.get(prepared.meta["timestamp_unit"])
    return background(sequences, log[TIMESTAMP] / (parts * DAY) if parts else None)


def background(sequences: Sequences, days: Floats | None = None) -> Background:
    """Count what is known of the test users.

    Args:
        days: (N,) times of all interactions; None if the data has none.
    """
    examples = sequences.test()
    owners = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
    training = np.arange(len(sequences.flat)) < sequences.train_stops[owners]
    pairs = np.unique(np.stack([owners[training], sequences.flat[training]]), axis=1)
    popularity = np.bincount(pairs[1], minlength=sequences.items + 1)
    sums = np.concatenate([[0], np.cumsum(popularity[sequences.flat])])
    histories = examples.stops - examples.starts
    ages = None
    if days is not None:
        first = np.full(sequences.items + 1, np.inf)
        np.minimum.at(first, sequences.flat, days)
        ages = (days[examples.stops] - first[examples.targets]).astype(np.int64)
    return Background(
        users=examples.users.astype(np.int64),
        targets=examples.targets,
        histories=histories,
        popularity=popularity,
        audience=len(np.unique(pairs[0])),
        taste=(sums[examples.stops] - sums[examples.starts]) / histories,
        ages=ages,
    )


def groups(known: Background) -> dict[str, list[Bucket]]:
    """Return buckets of about equally many test users, by what they are told apart by, in words."""
    found = {
        "length of the history": _quarters(known.histories),
        "popularity of the target": _quarters(known.popularity[known.targets]),
    }
    if known.ages is not None:
        found["age of the target in days"] = _quarters(known.ages)
    return found


def _quarters(values: Ints) -> list[Bucket]:
    """Cut users at the quartiles of their values (U,); those with 0 stand apart, as they are another case."""
    buckets = [Bucket("0", values == 0)] if (values == 0).any() else []
    if not (rest := values[values > 0]).size:
        return buckets
    edges = np.unique(np.quantile(rest, QUARTILES, method="inverted_cdf"))
    part = np.searchsorted(edges, values)  # the edge belongs to the part below it
    for each in range(len(edges) + 1):
        members = (part == each) & (values > 0)
        if members.any():
            low, high = values[members].min(), values[members].max()
            buckets.append(Bucket(f"{low:,}–{high:,}" if low < high else f"{low:,}", members))
    return buckets
