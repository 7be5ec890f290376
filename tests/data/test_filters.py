"""k-core, duplicates, order and ids against plain Python."""

from collections import Counter
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbench.columns import USER
from seqbench.data import selection
from seqbench.data.filters import Rule
from seqbench.data.parsers import rows as parser_rows
from seqbench.data.parsers.rows import Ids, sorted_order

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


def once(rows: list[tuple[int, int]], min_user: int, min_item: int) -> list[int]:
    users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
    return [at for at, (user, item) in enumerate(rows) if users[user] >= min_user and items[item] >= min_item]


def items_then_users(rows: list[tuple[int, int]], min_user: int, min_item: int) -> list[int]:
    items = Counter(row[1] for row in rows)
    left = [at for at, row in enumerate(rows) if items[row[1]] >= min_item]
    users = Counter(rows[at][0] for at in left)
    return [at for at in left if users[rows[at][0]] >= min_user]


PLAINLY = {"k-core": brute_k_core, "joint-once": once, "item-then-user-once": items_then_users}


def left_by(rows: list[tuple[int, int]], min_user: int, min_item: int, rule: str) -> list[int]:
    users, items = arrays(rows, 2)
    good_users, good_items = selection.core(users, items, min_user, min_item, rule)
    return np.flatnonzero(good_users[users] & good_items[items]).tolist()


@settings(deadline=None)
@given(pairs, st.integers(1, 4), st.integers(1, 4), st.sampled_from(get_args(Rule)))
def test_core(rows: list[tuple[int, int]], min_user: int, min_item: int, rule: str) -> None:
    assert left_by(rows, min_user, min_item, rule) == PLAINLY[rule](rows, min_user, min_item)


def test_k_core_of_a_chain_falls_apart_completely() -> None:
    # Every user and item but the ends has two rows; dropping the ends takes the next ones with them.
    n = 200
    users = np.repeat(np.arange(n), 2)[1:]
    items = np.repeat(np.arange(n), 2)[:-1]
    assert left_by(list(zip(users.tolist(), items.tolist(), strict=True)), 2, 2, "k-core") == []


@settings(deadline=None)
@given(triples, st.sampled_from(["first", "last"]), st.integers(1, 9))
def test_one_of_each_pair(rows: list[tuple[int, int, int]], which: str, part: int) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    users, items, _ = arrays(rows, 3)
    kept = {(user, item): at for at, (user, item, _) in (enumerate(rows) if which == "last" else _reversed(rows))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PART", part)
        assert np.flatnonzero(selection.one_of_each_pair(users, items, which)).tolist() == sorted(kept.values())


def _reversed(rows: list[tuple[int, int, int]]) -> list[tuple[int, tuple[int, int, int]]]:
    return list(enumerate(rows))[::-1]


@settings(deadline=None)
@given(pairs)
def test_no_repeats(rows: list[tuple[int, int]]) -> None:
    users, items = arrays(rows, 2)
    kept = [at for at, row in enumerate(rows) if at == 0 or rows[at - 1] != row]
    assert np.flatnonzero(selection.no_repeats(users, items)).tolist() == kept


@settings(deadline=None)
@given(triples, st.integers(1, 9), st.sampled_from([1, 2**20, 2**40]))
def test_order(rows: list[tuple[int, int, int]], part: int, scale: int) -> None:
    users, items, times = arrays(rows, 3)
    by_file = sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][2]))
    by_item = sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][2], rows[at][1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "PART", part)  # many parts, and a large scale that does not fit into one number
        assert order_by(["times"], user_id=users, times=times * scale, items=items) == by_file
        assert order_by(["times", "items"], user_id=users, times=times * scale, items=items * scale) == by_item


def order_by(keys: list[str], **columns: np.ndarray) -> list[int]:
    given = columns | {"row": np.arange(len(columns[USER]))}
    columns = {name: values.copy() for name, values in given.items()}
    selection.sort_by_user(columns, keys)
    for name, values in given.items():  # rows stay together
        np.testing.assert_array_equal(columns[name], values[columns["row"]])
    return columns["row"].tolist()


@given(st.lists(st.integers(-(2**53), 2**53), min_size=2, max_size=20), st.sampled_from([1, 1000]))
def test_order_of_times_that_were_stored_in_float32(values: list[int], scale: int) -> None:
    times = np.array(values, np.int64)
    stored = (times / scale).astype(np.float32)
    found = selection.order_of_floats(times, scale)
    assert np.array_equal(np.argsort(found, kind="stable"), np.argsort(stored, kind="stable"))


def test_order_of_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    users, times = generator.zipf(1.3, 50_000) % 3000, generator.integers(0, 500, 50_000)
    monkeypatch.setattr(selection, "PART", 1000)
    assert order_by(["times"], user_id=users, times=times) == np.lexsort((times, users)).tolist()


def order_of(raw: list[str]) -> list[str]:
    ids = pa.array(raw, pa.string())
    return ids.take(pa.array(sorted_order(ids))).to_pylist()


def test_ids_are_ordered_as_numbers_where_all_are() -> None:
    assert order_of(["10", "9", "100"]) == ["9", "10", "100"]
    assert order_of(["10", "9", "b"]) == ["10", "9", "b"]
    assert order_of(["1", "01"]) == ["01", "1"]  # different ids of equal value
    assert order_of(["²", "1"]) == ["1", "²"]  # a digit, but no number
    assert order_of([]) == []


ids = st.lists(st.one_of(st.integers(0, 30), st.integers(2**30, 2**40)), min_size=1, max_size=40)


@settings(deadline=None)
@given(ids, st.integers(1, 5), st.booleans(), st.integers(0, 100))
def test_ids_are_numbered_in_their_order(values: list[int], size: int, texts: bool, table: int) -> None:
    numbering = Ids()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser_rows, "TABLE_FLOOR", table)
        for start in range(0, len(values), size):
            block = values[start : start + size]
            as_text = texts or start > 3 * size  # a file may begin with numbers and go on with words
            numbering.add(pa.array(map(str, block)) if as_text else np.array(block))
        codes, raw = numbering.finish()
    expected = sorted(set(values))
    assert raw.to_pylist() == list(map(str, expected))
    assert codes.dtype == np.int32
    assert codes.tolist() == [expected.index(value) for value in values]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1))
def test_contiguous(codes: list[int]) -> None:
    numbered = np.array(codes, np.int32)
    used = selection.contiguous(numbered, 10)
    assert sorted(set(numbered.tolist())) == list(range(1, len(set(codes)) + 1))
    assert np.flatnonzero(used)[numbered - 1].tolist() == codes
