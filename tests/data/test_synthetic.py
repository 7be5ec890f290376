"""The generating process against a plain-Python one, and its ceiling."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqbench.columns import ITEM, USER
from seqbench.data import ceiling as ceilings
from seqbench.data import synthetic
from seqbench.data.prepare import prepare
from seqbench.data.synthetic import Generated, Process, SyntheticOptions
from seqbench.errors import UsageError
from seqbench.evaluation import metrics

TINY = SyntheticOptions(users=400, items=30, length=9, seed=5)


@pytest.fixture(scope="module")
def tiny() -> Generated:
    return synthetic.generate(TINY)


def brute(process: Process, history: list[int]) -> list[float]:
    """p(j | history), straight from the formula in the module's docstring."""
    V, K = len(process.topic), len(set(process.topic.tolist()))
    order = process.by_popularity.tolist()  # most popular first
    harmonic = sum(1 / rank for rank in range(1, V + 1))
    met = Counter(int(process.topic[item]) for item in history)
    scores = []
    for j in range(V):
        topic = int(process.topic[j])
        members = [item for item in order if process.topic[item] == topic]
        z = 1 / (1 + order.index(j)) / harmonic
        q = 1 / (1 + members.index(j)) / sum(1 / rank for rank in range(1, len(members) + 1))
        urn = (synthetic.ALPHA + met[topic]) / (synthetic.ALPHA * K + len(history))
        short = 0.0
        if history:
            following = process.successors[history[-1]].tolist()
            short = synthetic.SUCCESSORS[following.index(j)] if j in following else 0.0
        score = synthetic.SHORT * short + synthetic.LONG * urn * q + synthetic.POPULAR * z
        scores.append(0.0 if j in history else score)
    return [score / sum(scores) for score in scores]


def history(generated: Generated, user: int) -> np.ndarray:
    return generated.histories(np.array([user]))[0, : generated.lengths[user]]


def test_probabilities_equal_brute_force(tiny: Generated) -> None:
    lengths = np.minimum(np.arange(40) % 12, tiny.lengths[:40])
    probabilities = tiny.process.probabilities(tiny.histories(np.arange(40)), lengths)
    for user, length in enumerate(lengths):
        expected = brute(tiny.process, history(tiny, user)[:length].tolist())
        np.testing.assert_allclose(probabilities[user], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rounds", [0, 1, 16])
def test_next_items_follow_the_probabilities(tiny: Generated, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """The third item of many users after the same two, by rejection and from the full distribution."""
    monkeypatch.setattr(synthetic, "ROUNDS", rounds)
    process, n = tiny.process, 40_000
    begin = [int(process.by_popularity[0]), int(process.by_popularity[3])]
    uniform = np.random.Generator(np.random.PCG64(1)).random
    histories = np.tile(np.array([*begin, 0], np.int32), (n, 1))
    synthetic._step(process, synthetic._Tables.of(process), histories, 2, np.arange(n), uniform)
    expected = np.array(brute(process, begin))
    counts = np.bincount(histories[:, 2], minlength=process.items)
    assert (counts[expected == 0] == 0).all()
    likely = expected * n > 5
    chi2 = (((counts - expected * n) ** 2) / np.maximum(expected * n, 1e-9))[likely].sum()
    assert chi2 < 75  # 29 degrees of freedom: exceeded once in 100,000


def test_first_items_follow_the_probabilities() -> None:
    generated = synthetic.generate(SyntheticOptions(users=40_000, items=30, length=6))
    expected = np.array(brute(generated.process, [])) * 40_000
    counts = np.bincount(generated.histories(np.arange(40_000))[:, 0], minlength=30)
    assert (((counts - expected) ** 2) / expected).sum() < 75


def test_tables(tiny: Generated) -> None:
    process = tiny.process
    V, S = process.successors.shape
    assert (30, len(synthetic.SUCCESSORS)) == (V, S)
    assert sum(synthetic.SUCCESSORS) == pytest.approx(1)
    assert pytest.approx(1) == synthetic.SHORT + synthetic.LONG + synthetic.POPULAR
    for item, following in enumerate(process.successors.tolist()):
        assert len(set(following) | {item}) == S + 1
    assert (np.bincount(process.successors.ravel()) == S).all()
    assert process.popularity.sum() == pytest.approx(1)
    for topic in range(process.topics):
        assert process.in_topic[process.topic == topic].sum() == pytest.approx(1)


def test_sequences(tiny: Generated) -> None:
    for user in range(TINY.users):
        length = tiny.lengths[user]
        items = history(tiny, user)
        assert synthetic.MIN_LENGTH <= length <= TINY.items // 2
        assert len(set(items.tolist())) == length
        assert (np.diff(tiny.timestamps[tiny.lengths[:user].sum() :][:length]) > 0).all()


def test_rows_come_in_blocks_user_after_user(tiny: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "ROWS", 100)
    blocks = list(tiny.blocks())
    assert max(len(block[0]) for block in blocks) == 100
    users, items, times = (np.concatenate(column) for column in zip(*blocks, strict=True))
    np.testing.assert_array_equal(users, np.repeat(np.arange(1, TINY.users + 1), tiny.lengths))
    np.testing.assert_array_equal(items, tiny.items + 1)
    np.testing.assert_array_equal(times, tiny.timestamps)


def test_drawing_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    generated = synthetic.generate(TINY, lambda *counts: told.append(counts))
    assert told[-1] == (len(generated.items), len(generated.items))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) == generated.lengths.max()


def test_users_interleave(tiny: Generated) -> None:
    users = np.repeat(np.arange(TINY.users), tiny.lengths)[np.argsort(tiny.timestamps)]
    early, late = set(users[: len(users) // 10].tolist()), set(users[-len(users) // 10 :].tolist())
    assert len(early) > 5
    assert len(late) > 5
    assert (users[1:] != users[:-1]).mean() > 0.8


def test_lengths() -> None:
    lengths = synthetic.generate(SyntheticOptions(users=20_000, items=400, length=30)).lengths
    assert lengths.mean() == pytest.approx(30, rel=0.03)
    assert lengths.std() > 15
    assert (synthetic.generate(SyntheticOptions(users=9, length=6)).lengths == 6).all()


def test_reproducible() -> None:
    one, two = synthetic.generate(TINY), synthetic.generate(TINY)
    assert one.items.tobytes() == two.items.tobytes()
    assert one.timestamps.tobytes() == two.timestamps.tobytes()
    other = synthetic.generate(SyntheticOptions(users=400, items=30, length=9, seed=6))
    assert other.items.tobytes() != one.items.tobytes()


def test_blocks_do_not_run_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "BLOCK", 30 * 64)
    monkeypatch.setattr(synthetic, "CACHED", 100)
    generated = synthetic.generate(TINY)
    for user in range(TINY.users):
        items = history(generated, user)
        assert len(set(items.tolist())) == len(items)


def test_a_few_long_histories_do_not_make_all_of_them_long_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "BLOCK", 1 << 15)
    options = SyntheticOptions(users=20_000, items=100, length=8)
    tracemalloc.start()
    generated = synthetic.generate(options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < options.users * generated.lengths.max() * 8, "what one table of all users and places would take"
    assert (generated.timestamps > 0).all()


def test_ceiling_equals_brute_force(tiny: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "BLOCK", 30 * 8 * 50)  # several blocks
    users = np.arange(0, 400, 5)
    items = np.array([item for item in range(30) if item not in (4, 17)])  # two are dropped
    for back in (1, 2):
        hits, gains = [], []
        for user in users:
            sequence = history(tiny, user).tolist()
            places = [at for at, item in enumerate(sequence) if item in items]
            at = places[-back]
            scores = brute(tiny.process, sequence[:at])
            unseen = [item for item in items.tolist() if item not in sequence[:at]]
            rank = 1 + sum(scores[item] > scores[sequence[at]] for item in unseen)
            hits.append(rank <= 5)
            gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0.0)
        found = ceilings.ceiling(tiny, items, users, back)
        assert found["hr@5"] == pytest.approx(np.mean(hits), abs=1e-12)
        assert found["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-12)


def test_the_ceiling_of_a_large_catalogue_is_that_of_a_sample(tiny: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    users = np.arange(0, 400, 2)
    assert ceilings.ranked_users(tiny, users) is users
    monkeypatch.setattr(ceilings, "MIN_USERS", 10)
    monkeypatch.setattr(ceilings, "PAIRS", 50 * 30)
    sample = ceilings.ranked_users(tiny, users)
    assert len(set(sample.tolist())) == 50
    assert set(sample.tolist()) <= set(users.tolist())
    np.testing.assert_array_equal(sample, ceilings.ranked_users(tiny, users))


def test_expected_metrics_by_hand() -> None:
    # Ranks: 1; one of 5 and 6; one of 20 … 22.
    found = metrics.means(np.array([0, 4, 19]), np.array([0, 1, 2]))
    assert found["hr@5"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["hr@20"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert found["mrr@5"] == pytest.approx((1 + 1 / 10) / 3)
    assert found["mrr@20"] == pytest.approx((1 + (1 / 5 + 1 / 6) / 2 + 1 / 60) / 3)
    assert found["ndcg@5"] == pytest.approx((1 + 1 / np.log2(6) / 2) / 3)


def test_users_without_enough_items_are_not_ranked(tiny: Generated) -> None:
    assert ceilings.ceiling(tiny, np.array([0, 1]), np.arange(400), 1) == {}


@pytest.fixture(scope="module")
def default_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    prepare("synthetic", home=home)
    return home


def test_default_prepares(default_home: Path) -> None:
    prepared = prepare("synthetic", home=default_home)
    assert (prepared.users, prepared.items) == (2000, 1000)
    assert prepared.meta["dropped_items"] == 0
    assert prepared.meta["raw_counts"] == prepared.meta["counts"]
    assert prepared.max_len == 100
    assert set(prepared.meta["ceiling"]) == {f"{name}@{k}" for name in ("hr", "ndcg", "mrr") for k in (5, 10, 20)}
    assert prepared.meta["ceiling_validation"]["hr@10"] == pytest.approx(prepared.meta["ceiling"]["hr@10"], abs=0.05)


def test_the_same_bits_as_ever(default_home: Path) -> None:
    fingerprint = prepare("synthetic", home=default_home).fingerprint
    assert fingerprint == "f9ccd6d1c9964b8c33b99ec7881b1a5087931059e7c7511e278e7f3aeb43a62a"


def test_ceiling_beats_popularity_and_last_item(default_home: Path) -> None:
    prepared = prepare("synthetic", home=default_home)
    log = prepared.load()
    users, items = log[USER], log[ITEM]
    stops = np.flatnonzero(np.diff(users, append=users[-1] + 1)) + 1
    starts = np.concatenate([[0], stops[:-1]])
    count = np.bincount(items)
    process = synthetic.generate(SyntheticOptions()).process
    last = np.zeros((len(stops), 1), np.int32)
    last[:, 0] = items[stops - 2] - 1
    by_last = process.probabilities(last, np.ones(len(stops), np.int64))
    hits = {"popularity": [], "last item": []}
    for user, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        seen = items[start : stop - 1]
        for name, scores in (("popularity", count[1:].astype(float)), ("last item", by_last[user].copy())):
            scores[seen - 1] = -1
            hits[name].append((scores > scores[items[stop - 1] - 1]).sum() < 10)
    best = prepared.meta["ceiling"]["hr@10"]
    assert best > 3 * np.mean(hits["popularity"])
    assert best > 1.1 * np.mean(hits["last item"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"users": 0}, "--users must be at least 1, not 0"),
        ({"items": 10}, "--items must be at least 24"),
        ({"length": 5}, "--length must be at least 6"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"items": 100, "length": 51}, "--length 51 is too much for --items 100"),
    ],
)
def test_impossible_sizes(options: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SyntheticOptions(**options)


def test_other_sizes_are_other_data(default_home: Path, tmp_path: Path) -> None:
    prepare("synthetic", home=tmp_path, synthetic=SyntheticOptions(users=300, items=50, length=10))
    prepared = prepare("synthetic", home=tmp_path, synthetic=SyntheticOptions(users=300, items=50, length=10))
    assert prepared.users == 300
    assert prepare("synthetic", home=tmp_path).users == 2000
