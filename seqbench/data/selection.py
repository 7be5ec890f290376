"""Order, duplicates, repeats and cores of interactions on arrays. Memory stays a small multiple of the rows'.

Shapes: n rows; users, items (n,) integer codes from 0; timestamps (n,) int64.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from seqbench.columns import USER
from seqbench.data import spill

PART = 1 << 14  # rows that are sorted together: they fit in a cache
CHUNK = 1 << 18  # rows that are counted or looked up together
RELEASED = 32  # chunks of files that stay in memory
THREADS = 4  # that sort


def sort_by_user(columns: dict[str, np.ndarray], keys: Sequence[str]) -> None:
    """Sort rows by user, then by the keys, of which the first counts most; stable. Columns are changed in place.

    Args:
        columns: name → (n,), `user_id` among them.
        keys: names of columns.
    """
    users = columns[USER]
    if len(users) == 0:
        return
    if spill.is_spilled(users):
        _sort_spilled(columns, keys)
        return
    ends = np.cumsum(count(users))
    step = _step(len(users))
    grouped = bool((users[1:] >= users[:-1]).all())
    if not grouped:
        # Deal the rows to parts, each of which is then sorted on its own. With keys of 16 bits this is a radix sort.
        part = ((ends - 1) // step).astype(np.uint16)
        order = np.argsort(part[users], kind="stable")
        for name in columns:
            columns[name] = columns[name][order]
        del order

    def sort(part: tuple[int, int]) -> None:
        part_of = {name: values[slice(*part)] for name, values in columns.items()}
        order = _order_within(part_of[USER], *(part_of[key] for key in keys))
        for name, values in part_of.items():
            if not (grouped and name == USER):
                values[:] = values.take(order)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(sort, _parts(ends, step)):
            pass


def _sort_spilled(columns: dict[str, np.ndarray], keys: Sequence[str]) -> None:
    """Sort columns in files: deal the rows, in their order, to parts that fit in memory, and sort those."""
    users = columns[USER]
    ends, step = np.cumsum(count(users)), spill.rows_at_once()
    part_of_user = np.maximum(0, (ends - 1) // step).astype(np.uint16)
    sizes = np.bincount(part_of_user, weights=np.diff(ends, prepend=0)).astype(np.int64)
    parts = [(int(stop - size), int(stop)) for size, stop in zip(sizes, np.cumsum(sizes), strict=True) if size]
    dealt = {name: spill.empty_like(values, len(values)) for name, values in columns.items()}
    places = np.cumsum(sizes) - sizes
    for start in range(0, len(users), step):
        chunk = slice(start, start + step)
        part = part_of_user[users[chunk]]
        order = np.argsort(part, kind="stable")
        counts = np.bincount(part, minlength=len(sizes))
        for name, values in columns.items():
            rows = values[chunk].take(order)
            for target, rows_of in zip(places.tolist(), np.split(rows, np.cumsum(counts)[:-1]), strict=True):
                dealt[name][target : target + len(rows_of)] = rows_of
        places += counts
        spill.release((*columns.values(), *dealt.values()))
    columns.update(dealt)
    for start, stop in parts:
        part_columns = {name: np.array(values[start:stop]) for name, values in columns.items()}
        sort_by_user(part_columns, keys)
        for name, values in part_columns.items():
            columns[name][start:stop] = values
        spill.release(columns.values())


def _step(rows: int) -> int:
    return max(PART, rows // 60_000)


def _parts(ends: np.ndarray, step: int) -> Iterator[tuple[int, int]]:
    """Ranges of about `step` rows that no user straddles; `ends` is where each user's rows end, if sorted by user."""
    bounds = np.append(np.flatnonzero(np.diff((ends - 1) // step)), len(ends) - 1)
    start = 0
    for stop in ends[bounds].tolist():
        if stop > start:
            yield start, stop
        start = stop


def _order_within(*keys: np.ndarray) -> np.ndarray:
    """A stable order by several keys: by sorting one number that holds all of them, if they fit into 63 bits."""
    n = len(keys[0])
    lows = [int(key.min()) for key in keys]
    bits = [(int(key.max()) - low).bit_length() for key, low in zip(keys, lows, strict=True)]
    place = (n - 1).bit_length()
    if sum(bits) + place > 63:
        return np.lexsort(keys[::-1])
    packed = np.zeros(n, np.int64)
    for key, low, width in zip(keys, lows, bits, strict=True):
        packed <<= width
        packed |= key.astype(np.int64) - low
    packed <<= place
    packed |= np.arange(n)
    packed.sort()
    packed &= (1 << place) - 1
    return packed


def order_of_floats(times: np.ndarray, scale: int) -> np.ndarray:
    """Return whole numbers (n,) int32 that sort as times (n,), of which `scale` make a unit, sort in float32.

    RecBole stores times so before it sorts them.
    """
    order = spill.empty_like(times, len(times), np.int32)
    for at in _chunks(len(times), times, order):
        bits = (times[at] / scale).astype(np.float32).view(np.int32)
        order[at] = np.where(bits < 0, np.int32(-(2**31)) - bits, bits)  # negative floats have their bits in reverse
    return order


def one_of_each_pair(users: np.ndarray, items: np.ndarray, which: str) -> np.ndarray:
    """(n,) whether to keep a row, so that every user-item pair is left once: its "first" row or its "last".

    Args:
        users: (n,) ascending.
    """
    kept = np.zeros(len(users), bool)
    for start, stop in _parts(np.cumsum(count(users)), _step(len(users))) if len(users) else ():
        u, i = users[start:stop], items[start:stop]
        order = _order_within(u, i)
        other = np.ones(len(order) + 1, bool)  # whether a pair begins here, or the rows have ended
        other[1:-1] = (u[order[1:]] != u[order[:-1]]) | (i[order[1:]] != i[order[:-1]])
        kept[start + order[other[:-1] if which == "first" else other[1:]]] = True
    return kept


def no_repeats(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(n,) whether a row of sorted interactions differs from the one before it in user or item."""
    kept = np.ones(len(users), bool)
    for at in _chunks(len(users) - 1, users, items):
        after = slice(at.start + 1, at.stop + 1)
        kept[after] = (users[after] != users[at]) | (items[after] != items[at])
    return kept


def core(
    users: np.ndarray, items: np.ndarray, min_user: int, min_item: int, rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which users and items stay. A row stays if both of its ends do.

    Args:
        rule: `k-core`: the largest set of rows in which every user has `min_user` of them, and every item
            `min_item`. Users and items below that go together, the rest is counted again, until nothing changes.
            `joint-once`: users and items are counted once, in all rows (SASRec's script). `item-then-user-once`:
            items are counted in all rows, then users in the rows of the items that stay (LRURec's code).

    Returns:
        (U,) and (V,) bool by code. Those without a row do not stay.
    """
    of_users, of_items = count(users), count(items)
    if rule == "joint-once":
        return of_users >= max(1, min_user), of_items >= max(1, min_item)
    if rule == "item-then-user-once":
        stay = of_items >= max(1, min_item)
        everybody = np.ones(len(of_users), bool)
        return _count_of(users, both(everybody, users, stay, items), len(of_users)) >= max(1, min_user), stay
    while True:
        good_users, good_items = of_users >= min_user, of_items >= min_item
        if (good_users | (of_users == 0)).all() and (good_items | (of_items == 0)).all():
            return of_users > 0, of_items > 0
        kept = both(good_users, users, good_items, items)
        of_users -= _count_of(users, ~kept, len(of_users))
        of_items -= _count_of(items, ~kept, len(of_items))
        users, items = _chosen(users, kept), _chosen(items, kept)


def _count_of(codes: np.ndarray, chosen: np.ndarray, size: int) -> np.ndarray:
    """(V,) rows of each code among those of a mask (n,)."""
    counts = np.zeros(size, np.int64)
    for at in _chunks(len(codes), codes, step=size):
        counts += np.bincount(codes[at][chosen[at]], minlength=size)
    return counts


def _chosen(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The values of a mask (n,), as an array of their own."""
    if not spill.is_spilled(values):
        result: np.ndarray = values[chosen]
        return result
    found, end = spill.empty_like(values, int(np.count_nonzero(chosen))), 0
    for at in _chunks(len(values), values, found):
        kept = values[at][chosen[at]]
        found[end : end + len(kept)] = kept
        end += len(kept)
    spill.release((values, found))
    return found


def both(good_users: np.ndarray, users: np.ndarray, good_items: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(n,) whether a row's user and item are both good."""
    kept = np.empty(len(users), bool)
    for at in _chunks(len(users), users, items):
        # All codes are in range; saying "clip" only saves looking.
        np.logical_and(good_users.take(users[at], mode="clip"), good_items.take(items[at], mode="clip"), out=kept[at])
    return kept


def select(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The values of a mask, moved to the front of their own memory."""
    end = 0
    for at in _chunks(len(values), values):
        kept = values[at][chosen[at]]
        values[end : end + len(kept)] = kept
        end += len(kept)
    return values[:end]


def _chunks(rows: int, *columns: np.ndarray, step: int = 0) -> Iterator[slice]:
    """Ranges of a few rows, one after the other; what has been passed of columns in files is let go of."""
    step = max(CHUNK, step)
    for number, start in enumerate(range(0, rows, step), start=1):
        yield slice(start, min(start + step, rows))
        if number % RELEASED == 0:
            spill.release(columns)


def count(codes: np.ndarray, size: int = 0) -> np.ndarray:
    """(V,) rows of each code; V is at least `size`. Bounded memory, where numpy would widen all codes at once."""
    size = max(size, int(codes.max(initial=-1)) + 1)
    counts = np.zeros(size, np.int64)
    for at in _chunks(len(codes), codes, step=size):
        counts += np.bincount(codes[at], minlength=size)
    return counts


def contiguous(codes: np.ndarray, size: int) -> np.ndarray:
    """Number the codes that are left from 1, in their order, in place.

    Args:
        codes: (n,) int32 of the rows that are left; ids from 1 afterwards.
        size: V, the number of codes before.

    Returns:
        (V,) whether a code is in use.
    """
    used = count(codes, size) > 0
    ids = np.cumsum(used, dtype=np.int32)
    for at in _chunks(len(codes), codes):
        codes[at] = ids.take(codes[at], mode="clip")
    return used
