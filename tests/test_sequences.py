"""Splits, windows and padding: worked out by hand, and compared with plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbench.data.sequences import SPLITS, Examples, Sequences, pad, split_sequences
from seqbench.errors import SeqbenchError, UsageError

History = list[tuple[int, int]]  # (item, time)

plainly = settings(deadline=None, derandomize=True, max_examples=60)

histories = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=9), min_size=1, max_size=7
).map(lambda users: [sorted(history, key=lambda pair: pair[1]) for history in users])


def split(users: list[History], how: str = "leave-one-out") -> Sequences:
    ids = np.repeat(np.arange(1, len(users) + 1, dtype=np.int32), [len(history) for history in users])
    items, times = (np.array([pair[i] for history in users for pair in history]) for i in (0, 1))
    return split_sequences(ids, items.astype(np.int32), times.astype(np.int64), split=how)


def at(start: int, *items: int) -> History:
    """Items one second after the other."""
    return [(item, start + second) for second, item in enumerate(items)]


def rows(examples: Examples, sequences: Sequences) -> list[tuple[int, list[int], int]]:
    """(user, history, target) in words that can be written down."""
    return [
        (int(user), sequences.flat[start:stop].tolist(), int(target))
        for user, start, stop, target in zip(
            examples.users, examples.starts, examples.stops, examples.targets, strict=True
        )
    ]


def transitions(sequences: Sequences, max_len: int) -> list[list[int]]:
    """Positions of the inputs of each window; the target of position p is p + 1."""
    starts, lengths = sequences.windows(max_len, np.random.default_rng(max_len))
    return [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]


def test_leave_one_out_by_hand() -> None:
    sequences = split([at(0, 1, 2, 3, 4), at(0, 5, 6), at(9, 7, 8, 9)])
    assert sequences.items == 9
    assert sequences.flat.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert sequences.offsets.tolist() == [0, 4, 6, 9]
    assert sequences.train_stops.tolist() == [2, 6, 7]
    assert sequences.valid_positions.tolist() == [2, -1, 7]
    assert sequences.test_positions.tolist() == [3, -1, 8]
    assert rows(sequences.valid(), sequences) == [(1, [1, 2], 3), (3, [7], 8)]
    assert rows(sequences.test(), sequences) == [(1, [1, 2, 3], 4), (3, [7, 8], 9)]


def test_users_with_fewer_than_three_items_only_train() -> None:
    sequences = split([at(0, 1, 2, 3), at(0, 4, 5), at(0, 6)])
    assert sequences.test().users.tolist() == [1]
    assert sequences.training_items().tolist() == [1, 4, 5, 6]
    assert [pairs.tolist() for pairs in sequences.training_pairs()] == [[4], [5]]


def test_temporal_by_hand() -> None:
    # Ten interactions: validation begins at the ninth timestamp, 8; test at the tenth, 9.
    sequences = split([[(1, 0), (2, 1), (3, 8), (4, 9)], at(2, 5, 6, 7), at(5, 8, 9, 10)], "temporal")
    assert sequences.train_stops.tolist() == [2, 7, 10]
    assert rows(sequences.valid(), sequences) == [(1, [1, 2], 3)]
    assert rows(sequences.test(), sequences) == [(1, [1, 2, 3], 4)]
    assert sequences.training_items().tolist() == [1, 2, 5, 6, 7, 8, 9, 10]


def test_temporal_never_tears_equal_timestamps_apart() -> None:
    # The ninth timestamp is 5, and four interactions have it: all of them are validation, none is training.
    users: list[History] = [[(1, 0), (2, 1), (3, 5), (4, 9)], [(5, 2), (6, 5), (7, 5)], [(8, 3), (9, 4), (10, 5)]]
    sequences = split(users, "temporal")
    assert sequences.training_items().tolist() == [1, 2, 5, 8, 9]
    assert rows(sequences.valid(), sequences) == [(1, [1, 2], 3), (2, [5], 6), (3, [8, 9], 10)]
    assert rows(sequences.test(), sequences) == [(1, [1, 2, 3], 4)]


def test_temporal_leaves_out_users_without_a_history_or_a_target() -> None:
    # User 2 begins in the test period, user 3 ends in training.
    sequences = split([[*at(0, 1, 2, 3, 4), (5, 20), (6, 40)], [(7, 40)], at(4, 8, 9, 10, 8)], "temporal")
    assert sequences.train_stops.tolist() == [4, 6, 11]
    assert sequences.valid().users.tolist() == [1]
    assert sequences.test().users.tolist() == [1]


def test_temporal_leaves_80_and_90_percent_before_its_points() -> None:
    sequences = split([at(0, *range(1, 101))], "temporal")
    assert sequences.train_stops.tolist() == [80]
    assert sequences.valid_positions.tolist() == [80]
    assert sequences.test_positions.tolist() == [90]


def test_given_follows_the_marks_of_the_authors() -> None:
    users = np.repeat(np.array([1, 2, 3], np.int32), [5, 3, 2])
    items, times = np.arange(1, 11, dtype=np.int32), np.arange(10, dtype=np.int64)
    marks = np.array([0, 0, 1, 1, 2, 0, 0, 2, 0, 1], np.int8)
    sequences = split_sequences(users, items, times, marks, split="given")
    assert rows(sequences.valid(), sequences) == [(1, [1, 2], 3), (3, [9], 10)]
    assert rows(sequences.test(), sequences) == [(1, [1, 2, 3, 4], 5), (2, [6, 7], 8)]
    assert sequences.training_items().tolist() == [1, 2, 6, 7, 9]


def test_a_repeated_item_stays_where_it_is() -> None:
    sequences = split([at(0, 1, 1, 2, 1, 1)])
    assert rows(sequences.test(), sequences) == [(1, [1, 1, 2, 1], 1)]


@pytest.mark.parametrize(
    ("users", "how", "missing"),
    [
        ([at(0, 1, 2), at(0, 3, 4)], "leave-one-out", "validation user"),
        ([at(0, 1, 2, 3)], "leave-one-out", "training pair"),
        ([at(0, *range(1, 10)), [(10, 100)]], "temporal", "test user"),
        ([at(0, 1)] * 10, "temporal", "training pair"),
    ],
)
def test_a_split_that_leaves_nothing_is_refused(users: list[History], how: str, missing: str) -> None:
    with pytest.raises(SeqbenchError, match=f"The {how} split leaves no {missing}") as caught:
        split(users, how)
    assert "--split" in (caught.value.hint or "")


def test_an_unknown_split_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'temporel' is unknown\. Did you mean temporal"):
        split([at(0, 1, 2, 3, 4)], "temporel")


@pytest.mark.parametrize("changed", [-1, -2])
def test_the_targets_of_a_user_change_nothing_that_is_trained_on(changed: int) -> None:
    def trained(item: int) -> list[list[int]]:
        history = at(0, 1, 2, 3, 4, 5)
        history[changed] = (item, history[changed][1])
        sequences = split([at(0, 9, 8, 7, 6), history])
        starts, lengths = sequences.windows(3, np.random.default_rng(0))
        windows = [pad(sequences.flat, starts + shift, starts + lengths + shift)[0].tolist() for shift in (0, 1)]
        pairs = [ids.tolist() for ids in sequences.training_pairs()]
        return [*windows, *pairs, sequences.training_items().tolist()]

    assert trained(6) == trained(7)


@plainly
@given(users=histories, how=st.sampled_from(SPLITS))
def test_no_target_or_later_item_is_ever_trained_on(users: list[History], how: str) -> None:
    try:
        sequences = split(users, how)
    except SeqbenchError:
        return
    trained = {position + 1 for window in transitions(sequences, 4) for position in window}
    for user in range(len(users)):
        later = set(range(sequences.train_stops[user], sequences.offsets[user + 1]))
        assert not trained & later
        for position in (sequences.valid_positions[user], sequences.test_positions[user]):
            assert position == -1 or position in later
    if how == "temporal":
        times = np.array([time for history in users for _, time in history])
        first_target = times[sequences.valid().stops].min()
        assert all(times[position] < first_target for position in trained)


@plainly
@given(users=histories, max_len=st.integers(1, 6))
def test_windows_cover_every_training_transition_once(users: list[History], max_len: int) -> None:
    try:
        sequences = split(users)
    except SeqbenchError:
        return
    expected, counts = [], []
    for start, stop in zip(sequences.offsets[:-1], sequences.train_stops, strict=True):
        expected += list(range(start, stop - 1))
        counts.append(-(-max(0, stop - 1 - start) // max_len))
    windows = transitions(sequences, max_len)
    assert sorted(position for window in windows for position in window) == expected
    assert all(1 <= len(window) <= max_len for window in windows)
    assert sum(counts) <= len(windows) <= sum(counts) + len(counts)  # only the two ends of a user may be short
    sources, targets = sequences.training_pairs()
    assert sources.tolist() == sequences.flat[expected].tolist()
    assert targets.tolist() == sequences.flat[np.array(expected) + 1].tolist()


@plainly
@given(users=histories, how=st.sampled_from(SPLITS), max_len=st.integers(1, 6))
def test_prefixes_are_the_histories_of_every_training_target(users: list[History], how: str, max_len: int) -> None:
    try:
        sequences = split(users, how)
    except SeqbenchError:
        return
    expected = []
    for first, stop in zip(sequences.offsets[:-1], sequences.train_stops, strict=True):
        expected += [(max(first, target - max_len), target) for target in range(first + 1, stop)]
    starts, lengths = sequences.prefixes(max_len)
    assert list(zip(starts.tolist(), (starts + lengths).tolist(), strict=True)) == expected
    windows = {position + 1 for window in transitions(sequences, max_len) for position in window}
    assert windows == {target for _, target in expected}


@plainly
@given(users=histories, max_len=st.integers(2, 4))
def test_windows_as_lrurec_cuts_them(users: list[History], max_len: int) -> None:
    """Its rules in plain Python, without the label that is predicted from padding."""
    try:
        sequences = split(users)
    except SeqbenchError:
        return
    expected = []
    for start, stop in zip(sequences.offsets[:-1].tolist(), sequences.train_stops.tolist(), strict=True):
        whole = list(range(start, stop))
        pieces = [whole]
        if len(whole) >= 2 * max_len:
            pieces = [whole[at : at + max_len] for at in range(len(whole) - max_len, -1, -max_len)]
        for piece in pieces:
            targets = piece[-max_len:]
            inputs = piece[:-1][-max_len:]
            expected += [(inputs[0], len(inputs))] if inputs else []
            assert inputs == [target - 1 for target in targets[-len(inputs) :]] or not inputs
    starts, lengths = sequences.lrurec_windows(max_len)
    assert list(zip(starts.tolist(), lengths.tolist(), strict=True)) == expected


def test_short_sequences_are_not_cut() -> None:
    sequences = split([at(0, 1, 2, 3, 4, 5, 6, 7, 8)])  # trains on 1 … 6, so on 5 transitions
    starts, lengths = sequences.windows(5, np.random.default_rng(0))
    assert (starts.tolist(), lengths.tolist()) == ([0], [5])


def test_long_sequences_are_cut_at_every_place_in_turn() -> None:
    sequences = split([at(0, 1, 2, 3, 4, 5, 6, 7, 8)])
    generator = np.random.default_rng(0)
    cuts = {tuple(sequences.windows(3, generator)[0].tolist()) for _ in range(60)}
    assert cuts == {(4, 1, 0), (3, 0), (2, 0)}


def test_padding_is_on_the_right_and_keeps_the_newest() -> None:
    flat = np.arange(1, 8, dtype=np.int32)
    items, lengths = pad(flat, np.array([0, 3, 6]), np.array([3, 7, 7]))
    assert items.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7], [7, 0, 0, 0]]
    assert lengths.tolist() == [3, 4, 1]
    assert items.dtype == np.int64
    items, lengths = pad(flat, np.array([0, 3, 6]), np.array([3, 7, 7]), max_len=2)
    assert items.tolist() == [[2, 3], [6, 7], [7, 0]]
    assert lengths.tolist() == [2, 2, 1]
