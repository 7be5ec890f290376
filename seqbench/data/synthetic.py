"""Synthetic sequences whose next item has a known distribution, so that the best possible accuracy is known.

The process. A user who has met the items h (n of them, n_k of topic k, `last` the latest) next meets

    p(j | h) ∝ [j not in h] · ( SHORT · T(last, j)                                  short range
                              + LONG · (ALPHA + n_topic(j)) / (ALPHA·K + n) · q(j)   long range
                              + POPULAR · z(j) )                                    popularity

- T: every item has `len(SUCCESSORS)` successors, with the uneven weights of SUCCESSORS. Each item is the
  successor of equally many, so none starves. With no item met yet this term is absent.
- The topic of an item is fixed. A topic is drawn in proportion to ALPHA plus how often the WHOLE history met
  it (a Pólya urn: what was met first counts like what was met last), then one of its items by Zipf's law, q.
- z: Zipf's law with exponent 1 over all items.

All that the next item depends on is in the history, nothing is hidden. So no model can beat ranking by p,
and the accuracy of that ranking is the ceiling. Users meet an item once, which fits the default protocol: it
never recommends what was seen.

The ceiling is exact if filtering dropped no item; meta.json tells how many it did, none at the default size.
Otherwise p still looks at the dropped items of a history, which a model cannot see. See ceiling.py.

Reproducible from the seed: only uniform doubles of PCG64 and sums, products and quotients in a fixed order
are used, no function whose last digit differs between machines.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from seqbench.errors import UsageError

# Chosen so that memory pays: p of the last item alone, instead of the history, ranks a fifth worse (NDCG@10).
SHORT, LONG, POPULAR = 0.2, 0.7, 0.1
SUCCESSORS = (0.5, 0.25, 0.15, 0.1)
TOPIC_ITEMS = 25
ALPHA = 0.02

MIN_LENGTH = 6  # more than the default filters ask for
MAX_LENGTH = 5  # times the mean length

EPOCH = 1_600_000_000  # seconds; when the first user may start
SPAN = 365 * 86_400  # seconds in which users start
GAP = 86_400  # seconds; the longest pause between two items of a user

BLOCK = 1 << 25  # places of histories, or probabilities, that are held together
# Rounds of rejection before what is left is drawn from the full distribution, which costs as much as many of them where
# there are many items: one round more for every so many items.
ROUNDS, ITEMS_PER_ROUND = 16, 1 << 10

CACHED = 1 << 18  # places of histories that are searched together: they fit in a cache
ROWS = 1 << 20  # of a block that is handed over

Report = Callable[[int, int], None]  # (interactions done, of so many)
Uniform = Callable[..., np.ndarray]  # shape → doubles in [0, 1)


@dataclass(frozen=True)
class SyntheticOptions:
    """The size of the generated data."""

    users: int = 2000
    items: int = 1000
    length: int = 60  # mean items per user, before filtering
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"users": 1, "items": 4 * MIN_LENGTH, "length": MIN_LENGTH, "seed": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if value < limits[field.name]:
                raise UsageError(
                    f"--{field.name} must be at least {limits[field.name]}, not {value}.",
                    hint=f"Try `seqbench prepare synthetic --{field.name} {field.default}`.",
                )
        if self.length > self.items // 2:
            raise UsageError(
                f"Users meet an item once, so --length {self.length} is too much for --items {self.items}.",
                hint=f"Use --length {self.items // 2} or less, or more items.",
            )


@dataclass(frozen=True)
class Process:
    """The tables of the generating process, over items 0 … V-1 and topics 0 … K-1."""

    successors: np.ndarray  # (V, S) items
    topic: np.ndarray  # (V,) of each item
    topic_start: np.ndarray  # (K + 1,) places in by_topic
    by_topic: np.ndarray  # (V,) items, topic after topic, the most popular of each first
    in_topic: np.ndarray  # (V,) q, by item
    popularity: np.ndarray  # (V,) z, by item
    by_popularity: np.ndarray  # (V,) items, the most popular first

    @property
    def items(self) -> int:
        """V."""
        return len(self.topic)

    @property
    def topics(self) -> int:
        """K."""
        return len(self.topic_start) - 1

    def probabilities(self, histories: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """p(j | h) for each row; seen items have 0.

        Args:
            histories: (B, T) items, of which the first `lengths` (B,) of each row count.

        Returns:
            (B, V) float64, rows sum to 1.
        """
        B, T = histories.shape
        rows = np.arange(B)
        valid = np.arange(T) < lengths[:, None]
        row_of = np.broadcast_to(rows[:, None], (B, T))[valid]
        met = histories[valid]
        counts = np.zeros((B, self.topics))
        np.add.at(counts, (row_of, self.topic[met]), 1.0)
        urn = (ALPHA + counts) / (ALPHA * self.topics + lengths[:, None])
        scores = LONG * urn[:, self.topic] * self.in_topic + POPULAR * self.popularity
        begun = lengths > 0
        last = histories[rows, np.maximum(lengths - 1, 0)]
        scores[rows[begun, None], self.successors[last[begun]]] += SHORT * np.array(SUCCESSORS)
        scores[row_of, met] = 0.0
        result: np.ndarray = scores / np.cumsum(scores, axis=1)[:, -1:]
        return result


@dataclass(frozen=True)
class Generated:
    """What `generate` drew."""

    options: SyntheticOptions
    process: Process
    lengths: np.ndarray  # (U,)
    items: np.ndarray  # (n,) int32 items from 0, user after user
    timestamps: np.ndarray  # (n,) int64 seconds, strictly increasing for a user

    def histories(self, users: np.ndarray) -> np.ndarray:
        """(B, longest) int32 the items of `users` (B,); what is past the length means nothing."""
        places = np.arange(int(self.lengths.max()))
        starts = np.cumsum(self.lengths) - self.lengths
        result: np.ndarray = self.items[np.minimum(starts[users, None] + places, len(self.items) - 1)]
        return result

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield users, items (the raw ids, from 1) and timestamps of a block of rows, user after user."""
        ends = np.cumsum(self.lengths)
        for start in range(0, int(ends[-1]), ROWS):
            rows = slice(start, min(start + ROWS, int(ends[-1])))
            users = np.searchsorted(ends, np.arange(rows.start, rows.stop), side="right") + 1
            yield users, self.items[rows] + 1, self.timestamps[rows]


def describe(options: SyntheticOptions) -> dict[str, Any]:
    """Everything that decides what is generated, for meta.json."""
    return asdict(options) | {
        "mixture": {"short": SHORT, "long": LONG, "popularity": POPULAR},
        "successors": list(SUCCESSORS),
        "topic_items": TOPIC_ITEMS,
        "alpha": ALPHA,
    }


def generate(options: SyntheticOptions, report: Report = lambda done, total: None) -> Generated:
    """Draw the tables and then every user's sequence. Equal options give equal bits.

    Args:
        report: called again and again with how many interactions are drawn, and how many there will be.
    """
    uniform = np.random.Generator(np.random.PCG64(options.seed)).random
    process = _process(options.items, uniform)
    lengths = _lengths(options, uniform)
    ends, longest = np.cumsum(lengths), int(lengths.max())
    items, timestamps = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.int64)

    def blocks() -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Users, their rows, and (B, longest) which places in a table of theirs are rows."""
        step = max(1, BLOCK // longest)
        for start in range(0, options.users, step):
            users = slice(start, min(start + step, options.users))
            rows = slice(int(ends[start] - lengths[start]), int(ends[users.stop - 1]))
            yield users, rows, np.arange(longest) < lengths[users, None]

    for users, rows, valid in blocks():
        histories = np.zeros(valid.shape, np.int32)
        for done in _walk(process, histories, lengths[users], uniform):
            report(rows.start + done, len(items))
        items[rows] = histories[valid]
    begin = EPOCH + (uniform(options.users) * SPAN).astype(np.int64)
    for users, rows, valid in blocks():
        gaps = 1 + (uniform(valid.shape) * GAP).astype(np.int64)
        timestamps[rows] = (begin[users, None] + np.cumsum(gaps, axis=1))[valid]
    return Generated(options, process, lengths, items, timestamps)


def _process(items: int, uniform: Uniform) -> Process:
    # Sorting uniforms gives a random order without depending on how numpy shuffles.
    circle, by_popularity, dealt = (np.argsort(uniform(items), kind="stable") for _ in range(3))
    place = np.empty(items, np.int64)
    place[circle] = np.arange(items)
    # Different jumps along one random circle: no item is its own successor, none has one successor twice.
    jumps = 1 + np.argsort(uniform(items - 1), kind="stable")[: len(SUCCESSORS)]
    zipf = 1.0 / np.arange(1, items + 1)
    popularity = np.empty(items)
    popularity[by_popularity] = zipf / np.cumsum(zipf)[-1]

    topics = max(2, items // TOPIC_ITEMS)
    topic = np.empty(items, np.int64)
    topic[dealt] = np.arange(items) % topics
    by_topic = by_popularity[np.argsort(topic[by_popularity], kind="stable")]
    topic_start = np.searchsorted(topic[by_topic], np.arange(topics + 1))
    in_topic = np.empty(items)
    for start, end in itertools.pairwise(topic_start):
        in_topic[by_topic[start:end]] = zipf[: end - start] / np.cumsum(zipf[: end - start])[-1]
    return Process(
        successors=circle[(place[:, None] + jumps) % items],
        topic=topic,
        topic_start=topic_start,
        by_topic=by_topic,
        in_topic=in_topic,
        popularity=popularity,
        by_popularity=by_popularity,
    )


def _lengths(options: SyntheticOptions, uniform: Uniform) -> np.ndarray:
    """(U,) MIN_LENGTH plus a geometric number, cut at MAX_LENGTH means and at half of the items."""
    longest = min(MAX_LENGTH * options.length, options.items // 2)
    extra = options.length - MIN_LENGTH
    # tail[k] = P(more than k) = (extra / (extra + 1)) ** (k + 1), as a product: the same bits everywhere.
    tail = np.cumprod(np.full(longest - MIN_LENGTH, extra / (extra + 1.0)))
    more = np.searchsorted(-tail, -uniform(options.users), side="left")
    return MIN_LENGTH + more


@dataclass(frozen=True)
class _Tables:
    """Cumulative weights to look draws up in."""

    popularity: np.ndarray  # (V,) in the order of by_popularity
    in_topic: np.ndarray  # (V + 1,) in the order of by_topic, from 0
    successors: np.ndarray  # (S,)

    @classmethod
    def of(cls, process: Process) -> "_Tables":
        return cls(
            np.cumsum(process.popularity[process.by_popularity]),
            np.concatenate([[0.0], np.cumsum(process.in_topic[process.by_topic])]),
            np.cumsum(SUCCESSORS),
        )


def _walk(process: Process, histories: np.ndarray, lengths: np.ndarray, uniform: Uniform) -> Iterator[int]:
    """Fill the histories (U, T) of one block of users, all of them one step at a time; yield how much is filled."""
    tables = _Tables.of(process)
    done = 0
    for t in range(int(lengths.max())):
        users = np.flatnonzero(lengths > t)
        _step(process, tables, histories, t, users, uniform)
        done += len(users)
        yield done


def _step(
    process: Process, tables: _Tables, histories: np.ndarray, t: int, users: np.ndarray, uniform: Uniform
) -> None:
    """Draw item t of `users` (P,) into the histories (U, T)."""
    pending = users
    for _ in range(max(ROUNDS, process.items // ITEMS_PER_ROUND) if ROUNDS else 0):
        # Drawing from the mixture until the item is new is drawing from the mixture over the unseen.
        drawn = _draw(process, tables, histories, t, pending, uniform)
        fresh = ~_met(histories, t, pending, drawn)
        histories[pending[fresh], t] = drawn[fresh]
        pending = pending[~fresh]
        if not len(pending):
            return
    rows = max(1, BLOCK // process.items)
    targets = uniform(len(pending))
    for start in range(0, len(pending), rows):
        block = pending[start : start + rows]
        totals = np.cumsum(process.probabilities(histories[block], np.full(len(block), t)), axis=1)
        drawn = (totals <= (targets[start : start + rows] * totals[:, -1])[:, None]).sum(axis=1)
        histories[block, t] = drawn


def _met(histories: np.ndarray, t: int, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(P,) whether `users` (P,) have met these items (P,) in their first t steps."""
    met = np.zeros(len(users), bool)
    rows = max(1, CACHED // max(1, t))
    for start in range(0, len(users), rows):
        part = slice(start, start + rows)
        met[part] = (histories[users[part], :t] == items[part, None]).any(axis=1)
    return met


def _draw(
    process: Process, tables: _Tables, histories: np.ndarray, t: int, users: np.ndarray, uniform: Uniform
) -> np.ndarray:
    """One item for each of `users` (P,) from the mixture, seen or not."""
    which, first, second = uniform((3, len(users)))
    short = SHORT if t else 0.0
    which = which * (short + LONG + POPULAR)

    popular = process.by_popularity[_pick(tables.popularity, second * tables.popularity[-1])]

    # A topic ∝ ALPHA + count: that of a uniform item of the history, or a uniform one.
    urn = first * (ALPHA * process.topics + t)
    topics = np.minimum(np.maximum(urn - t, 0) / ALPHA, process.topics - 1).astype(np.int64)
    if t:
        met = histories[users, np.minimum(urn, t - 1).astype(np.int64)]
        topics = np.where(urn < t, process.topic[met], topics)
    start, end = process.topic_start[topics], process.topic_start[topics + 1]
    targets = tables.in_topic[start] + second * (tables.in_topic[end] - tables.in_topic[start])
    places = np.searchsorted(tables.in_topic, targets, side="right") - 1
    long_range = process.by_topic[np.clip(places, start, end - 1)]

    items = np.where(which < short + LONG, long_range, popular)
    if t:
        nth = _pick(tables.successors, second * tables.successors[-1])
        items = np.where(which < short, process.successors[histories[users, t - 1], nth], items)
    result: np.ndarray = items
    return result


def _pick(cumulative: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The places whose share of the cumulative weights the targets fall into."""
    return np.minimum(np.searchsorted(cumulative, targets, side="right"), len(cumulative) - 1)
