"""From interactions to the sequences that models are trained and judged on.

Shapes: U users, N interactions, B batch, T time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqbench.data.catalog import GIVEN, SPLITS
from seqbench.errors import SeqbenchError, UsageError, unknown_name

# The temporal split: the share of all interactions that lies before the validation and the test period.
TEMPORAL_QUANTILES = (0.8, 0.9)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """One prediction per user: the target item, and the history before it as a range of the flat item array."""

    users: Ints  # (B,) user ids
    starts: Ints  # (B,) first position of the user's history
    stops: Ints  # (B,) position after the last item of the history; the target's own position
    targets: Ints  # (B,) item ids

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Ints) -> "Examples":
        """Return the examples at these indices, in their order."""
        return Examples(self.users[rows], self.starts[rows], self.stops[rows], self.targets[rows])


@dataclass(frozen=True)
class Sequences:
    """All users' items in time order, and where training ends and the two targets lie.

    `flat[offsets[u] : offsets[u + 1]]` are the items of user u + 1. Positions are indices into `flat`; -1 where
    a user has no such target.
    """

    flat: NDArray[np.int32]  # (N,) item ids
    offsets: Ints  # (U + 1,)
    train_stops: Ints  # (U,) position after the last training item
    valid_positions: Ints  # (U,)
    test_positions: Ints  # (U,)
    items: int  # size of the catalogue; ids run from 1 to `items`
    times: Ints | None = None  # (N,) seconds since 1970; None: only an order is known
    max_len: int = 50  # most recent items that a model sees if nothing else is said

    def training_items(self) -> NDArray[np.int32]:
        """Items of all training interactions."""
        return self.flat[self._in_training()]

    def training_pairs(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(item, next item) for every pair of neighbours in the training sequences."""
        training = self._in_training()
        firsts = training.copy()
        firsts[self.train_stops[self.train_stops > self.offsets[:-1]] - 1] = False  # has no successor in training
        positions = np.flatnonzero(firsts)
        return self.flat[positions], self.flat[positions + 1]

    def windows(self, max_len: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Training windows: starts (W,) and lengths (W,), at most `max_len` inputs each.

        A window's inputs are flat[start : start + length], its targets the same range shifted by one, so every
        training interaction but a user's first is a target exactly once. A sequence with more inputs than fit is
        cut at places that the generator chooses: drawn anew in every epoch, no item is always the first of a
        window, with no history to be predicted from.
        """
        lengths = self.train_stops - self.offsets[:-1] - 1  # inputs: all training items but the last
        newest = np.where(lengths > max_len, generator.integers(1, max_len + 1, len(lengths)), lengths)
        counts = np.where(lengths > 0, 1 - (newest - lengths) // max_len, 0)
        user = np.repeat(np.arange(len(lengths)), counts)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # 0 is the newest
        ends = self.train_stops[user] - 1
        stops = np.where(nth == 0, ends, ends - newest[user] - (nth - 1) * max_len)
        starts = np.where(nth == 0, ends - newest[user], np.maximum(self.offsets[user], stops - max_len))
        return starts, stops - starts

    def lrurec_windows(self, max_len: int) -> tuple[Ints, Ints]:
        """Training windows as the official code of LRURec cuts them: starts (W,) and lengths (W,).

        A sequence of fewer than 2 · max_len items gives its newest max_len transitions, a longer one windows of
        max_len items, and so max_len - 1 transitions, from its end; what is left over at its beginning is dropped,
        and so are the transitions between windows. (There, the first item of a window is a label as well, predicted
        from padding; here it is not.)

        Args:
            max_len: at least 2.
        """
        items = self.train_stops - self.offsets[:-1]
        counts = np.where(items < 2 * max_len, items > 1, items // max_len)
        user = np.repeat(np.arange(len(items)), counts)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # 0 is the newest
        lengths = np.where(items[user] < 2 * max_len, np.minimum(items[user] - 1, max_len), max_len - 1)
        return self.train_stops[user] - nth * max_len - 1 - lengths, lengths

    def prefixes(self, max_len: int) -> tuple[Ints, Ints]:
        """Every history before a training target: starts (P,) and lengths (P,), the newest `max_len` items of each.

        The target is flat[start + length]; every training interaction but a user's first is one exactly once.
        """
        firsts = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        stops = np.flatnonzero(self._in_training() & (np.arange(len(self.flat)) > firsts))
        starts = np.maximum(firsts[stops], stops - max_len)
        return starts, stops - starts

    def valid(self) -> Examples:
        """One validation example per user that has a validation target and a history."""
        return self._examples(self.valid_positions)

    def test(self) -> Examples:
        """One test example per user that has a test target and a history."""
        return self._examples(self.test_positions)

    def _in_training(self) -> NDArray[np.bool_]:
        """(N,) whether a position belongs to training."""
        stops = np.repeat(self.train_stops, np.diff(self.offsets))
        return np.arange(len(self.flat)) < stops

    def _examples(self, positions: Ints) -> Examples:
        starts = self.offsets[:-1]
        users = np.flatnonzero(positions > starts)
        stops = positions[users]
        return Examples(users + 1, starts[users], stops, self.flat[stops].astype(np.int64))


def split_sequences(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    timestamps: Ints,
    marks: NDArray[np.int8] | None = None,
    *,
    split: str,
) -> Sequences:
    """Cut prepared interactions (sorted by user, then time) into training, validation and test.

    `leave-one-out`: a user's last item is the test target, the one before it the validation target, the rest is
    training; users with fewer than three items are training only.

    `temporal`: two points in time, the same for all users, leave 80 % and 90 % of all interactions before them.
    What lies before the first is training. A user's validation target is the first item between the two, the
    test target the first item after the second; each is predicted from everything before its point in time.
    Interactions at the point itself count as after it, so equal timestamps are never torn apart.

    `given`: as the authors of the data marked it, 0 training, 1 validation, 2 test. A user's targets are the first
    item that is marked so; each is predicted from everything before it.

    Raises:
        UsageError: no such split.
        SeqbenchError: the split leaves nothing to train on or nobody to evaluate.
    """
    counts = np.bincount(users, minlength=2)[1:]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    stops = offsets[1:]
    if split == "leave-one-out":
        long_enough = counts >= 3
        train_stops = np.where(long_enough, stops - 2, stops)
        valid_positions = np.where(long_enough, stops - 2, -1)
        test_positions = np.where(long_enough, stops - 1, -1)
    elif split == "temporal":
        ordered = np.sort(timestamps)
        valid_time, test_time = (ordered[int(share * len(ordered))] for share in TEMPORAL_QUANTILES)
        train_stops = offsets[:-1] + _count_per_user(users, timestamps < valid_time, len(counts))
        test_starts = offsets[:-1] + _count_per_user(users, timestamps < test_time, len(counts))
        valid_positions = np.where(train_stops < test_starts, train_stops, -1)
        test_positions = np.where(test_starts < stops, test_starts, -1)
    elif split == GIVEN and marks is not None:
        train_stops = offsets[:-1] + _count_per_user(users, marks == 0, len(counts))
        test_starts = offsets[:-1] + _count_per_user(users, marks < 2, len(counts))
        valid_positions = np.where(train_stops < test_starts, train_stops, -1)
        test_positions = np.where(test_starts < stops, test_starts, -1)
    elif split == GIVEN:
        raise UsageError("The data set has no split of its own.", hint=f"Use --split {' or '.join(SPLITS)}.")
    else:
        raise unknown_name("Split", split, (*SPLITS, GIVEN), "seqbench run --help")
    sequences = Sequences(
        flat=items,
        offsets=offsets,
        train_stops=train_stops,
        valid_positions=valid_positions,
        test_positions=test_positions,
        items=int(items.max(initial=0)),
    )
    for what, size in (
        ("training pair", len(sequences.training_pairs()[0])),
        ("validation user", len(sequences.valid())),
        ("test user", len(sequences.test())),
    ):
        if size == 0:
            raise SeqbenchError(
                f"The {split} split leaves no {what}.",
                hint="Use another --split, or prepare a data set with longer sequences.",
            )
    return sequences


def pad(flat: NDArray[np.int32] | Ints, starts: Ints, stops: Ints, max_len: int | None = None) -> tuple[Ints, Ints]:
    """Return ranges of a flat array as a matrix padded on the right with 0.

    Args:
        starts, stops: (B,) ranges; with `max_len`, only the last `max_len` items of each are kept.

    Returns:
        (B, T) with T the longest range, int64, and (B,) lengths.
    """
    if max_len is not None:
        starts = np.maximum(starts, stops - max_len)
    lengths = stops - starts
    steps = np.arange(lengths.max(initial=1))
    inside = steps < lengths[:, None]
    positions = np.where(inside, starts[:, None] + steps, 0)
    return np.where(inside, flat[positions], 0).astype(np.int64), lengths


def _count_per_user(users: NDArray[np.int32], selected: NDArray[np.bool_], count: int) -> Ints:
    return np.bincount(users[selected], minlength=count + 1)[1:]
