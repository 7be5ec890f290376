"""From raw ids to contiguous ones: duplicates, k-core, order. Plain numpy, no loop over rows.

Shapes: n rows; users, items (n,) integer codes from 0; timestamps (n,) int64.
"""

import numpy as np


def first_of_each_pair(users: np.ndarray, items: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Positions, ascending, of the earliest row of each pair; of equal times the first in the file."""
    order = np.lexsort((timestamps, items, users))  # stable
    new = np.ones(len(order), bool)
    new[1:] = (users[order][1:] != users[order][:-1]) | (items[order][1:] != items[order][:-1])
    return np.sort(order[new])


def k_core(users: np.ndarray, items: np.ndarray, min_user: int, min_item: int) -> np.ndarray:
    """Positions, ascending, of the largest subset of rows in which nobody is too small. May be empty.

    Every user has at least `min_user` rows there, and every item at least `min_item`. Users and items below
    that are dropped together, the rest is counted again, until nothing changes.
    """
    kept = np.arange(len(users))
    while len(kept):
        u, i = users[kept], items[kept]
        enough = (np.bincount(u)[u] >= min_user) & (np.bincount(i)[i] >= min_item)
        if enough.all():
            break
        kept = kept[enough]
    return kept


def ranks(raw_ids: list[str]) -> np.ndarray:
    """The place of each raw id (all different) in their sorted order.

    Ids are compared as numbers when all of them are digits ("9" before "10"), as text otherwise.
    """
    if all(raw.isascii() and raw.isdigit() for raw in raw_ids):
        order = sorted(range(len(raw_ids)), key=lambda at: (int(raw_ids[at]), raw_ids[at]))
    else:
        order = sorted(range(len(raw_ids)), key=raw_ids.__getitem__)
    places = np.empty(len(raw_ids), np.int64)
    places[order] = np.arange(len(raw_ids))
    return places


def contiguous(places: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number what is left from 1, in the order of the raw ids.

    Args:
        places: (V,) of each code in the sorted raw ids, from `ranks`.
        codes: (n,) of the rows that are left.

    Returns:
        (n,) int32 ids from 1, and the codes that they stand for: (ids in use,), the first is that of id 1.
    """
    present = np.unique(codes)
    present = present[np.argsort(places[present])]
    ids = np.zeros(len(places), np.int32)
    ids[present] = np.arange(1, len(present) + 1, dtype=np.int32)
    return ids[codes], present


def by_user_and_time(users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, ties: str) -> np.ndarray:
    """The order of the prepared rows: by user, then time; equal times as `ties` says.

    `file` keeps the order of the source file, `item` goes by item id, which is the order of the raw ids.
    """
    keys = (timestamps, users) if ties == "file" else (items, timestamps, users)
    return np.lexsort(keys)  # stable; the last key counts most
