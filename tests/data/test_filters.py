"""k-core, duplicates, order and ids against plain Python."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbench.data import filters

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)
triples = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), max_size=40)


def arrays(rows: list[tuple[int, ...]], width: int) -> list[np.ndarray]:
    return [np.array([row[at] for row in rows], np.int64) for at in range(width)]


def brute_k_core(rows: list[tuple[int, int]], min_user: int, min_item: int) -> list[int]:
    """Drop one row at a time: the k-core does not depend on the order."""
    kept = list(range(len(rows)))
    while True:
        users = Counter(rows[at][0] for at in kept)
        items = Counter(rows[at][1] for at in kept)
        bad = [at for at in kept if users[rows[at][0]] < min_user or items[rows[at][1]] < min_item]
        if not bad:
            return kept
        kept.remove(bad[-1])


@settings(deadline=None)
@given(pairs, st.integers(1, 4), st.integers(1, 4))
def test_k_core(rows: list[tuple[int, int]], min_user: int, min_item: int) -> None:
    users, items = arrays(rows, 2)
    assert filters.k_core(users, items, min_user, min_item).tolist() == brute_k_core(rows, min_user, min_item)


def test_k_core_of_a_chain_falls_apart_completely() -> None:
    # Every user and item but the ends has two rows; dropping the ends takes the next ones with them.
    n = 200
    users = np.repeat(np.arange(n), 2)[1:]
    items = np.repeat(np.arange(n), 2)[:-1]
    assert len(filters.k_core(users, items, 2, 2)) == 0


@settings(deadline=None)
@given(triples)
def test_first_of_each_pair(rows: list[tuple[int, int, int]]) -> None:
    users, items, times = arrays(rows, 3)
    best: dict[tuple[int, int], int] = {}
    for at, (user, item, time) in enumerate(rows):
        if (user, item) not in best or time < rows[best[user, item]][2]:
            best[user, item] = at
    assert filters.first_of_each_pair(users, items, times).tolist() == sorted(best.values())


@settings(deadline=None)
@given(triples)
def test_order(rows: list[tuple[int, int, int]]) -> None:
    users, items, times = arrays(rows, 3)
    by_file = sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][2]))
    by_item = sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][2], rows[at][1]))
    assert filters.by_user_and_time(users, items, times, "file").tolist() == by_file
    assert filters.by_user_and_time(users, items, times, "item").tolist() == by_item


def test_ranks_are_numeric_where_all_ids_are() -> None:
    assert filters.ranks(["10", "9", "100"]).tolist() == [1, 0, 2]
    assert filters.ranks(["10", "9", "b"]).tolist() == [0, 1, 2]
    assert filters.ranks(["1", "01"]).tolist() == [1, 0]  # different ids of equal value
    assert filters.ranks(["²", "1"]).tolist() == [1, 0]  # a digit, but no number
    assert filters.ranks([]).tolist() == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1), st.permutations(range(10)))
def test_contiguous(codes: list[int], places: list[int]) -> None:
    ids, present = filters.contiguous(np.array(places), np.array(codes))
    assert ids.dtype == np.int32
    assert sorted(set(ids.tolist())) == list(range(1, len(set(codes)) + 1))
    assert present[ids - 1].tolist() == codes
    assert [places[code] for code in present] == sorted(places[code] for code in present)
