"""Ranking metrics: by hand, by brute force, and against an independent implementation."""

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from seqbench.data.sequences import Sequences, split_sequences
from seqbench.errors import Diverged, SeqbenchError
from seqbench.evaluation import ranking
from seqbench.evaluation import ranks as ranks_file
from seqbench.evaluation.metrics import CUTOFFS, STANDARD
from seqbench.evaluation.ranking import rank
from seqbench.evaluation.ranks import Ranks, read_top
from seqbench.models.base import CountingModel, Model, ModelConfig, SequenceModel
from seqbench.protocol import REMOVALS, Protocol
from tests.kit import PATIENCE

ITEMS = 30


class Fixed(CountingModel):
    """Scores that depend on the last item of the history alone."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(len(table) - 1, 1, ModelConfig())
        self.table = table

    def fit(self, sequences: Sequences) -> None:
        raise NotImplementedError

    def score(self, items: Tensor, lengths: Tensor) -> Tensor:
        return self.table[items[torch.arange(len(items)), lengths - 1]]


def constant(value: float = 0.0) -> Fixed:
    return Fixed(torch.full((ITEMS + 1, ITEMS + 1), value))


def random_scores(seed: int = 0) -> Fixed:
    scores = np.random.default_rng(seed).permuted(np.tile(np.arange(ITEMS + 1.0), (ITEMS + 1, 1)), axis=1)
    return Fixed(torch.tensor(scores, dtype=torch.float32))  # every row a permutation: no ties


def sequences_of(*histories: list[int], items: int = ITEMS) -> Sequences:
    """The last item of each history is the test target; one more user has the whole catalogue in training."""
    everyone = [*histories, [*range(1, items + 1), 1, 1]]
    users = np.repeat(np.arange(1, len(everyone) + 1), [len(history) for history in everyone]).astype(np.int32)
    flat = np.concatenate(everyone).astype(np.int32)
    return split_sequences(users, flat, np.arange(len(flat)), split="leave-one-out")


def random_sequences(users: int = 40, seed: int = 1) -> Sequences:
    """Histories of 3 to 15 different items."""
    rng = np.random.default_rng(seed)
    return sequences_of(*((rng.permutation(ITEMS)[: rng.integers(3, 16)] + 1).tolist() for _ in range(users)))


def ranked(model: Model, sequences: Sequences, *, removed: str = "history", max_len: int = 50) -> Ranks:
    return rank(model, sequences, sequences.test(), Protocol(removed=removed, max_len=max_len))


def ranks_of(better: list[int], ties: list[int]) -> Ranks:
    return Ranks(np.arange(1, len(better) + 1), np.array(better), np.array(ties))


@pytest.mark.parametrize(
    ("better", "ties", "metric", "expected"),
    [
        (0, 0, "hr@5", 1),
        (0, 0, "ndcg@5", 1),
        (0, 0, "mrr@5", 1),
        (4, 0, "hr@5", 1),
        (4, 0, "ndcg@5", 1 / math.log2(6)),
        (4, 0, "mrr@5", Fraction(1, 5)),
        (5, 0, "hr@5", 0),
        (5, 0, "ndcg@5", 0),
        (5, 0, "mrr@5", 0),
        (5, 0, "hr@10", 1),
        (2, 0, "ndcg@20", 0.5),  # rank 3, 1 / log2(4)
        (0, 1, "mrr@5", Fraction(3, 4)),  # rank 1 or 2
        (3, 3, "hr@5", Fraction(2, 4)),  # rank 4, 5, 6 or 7
        (3, 3, "mrr@5", (Fraction(1, 4) + Fraction(1, 5)) / 4),
        (3, 3, "ndcg@5", (1 / math.log2(5) + 1 / math.log2(6)) / 4),
        (9, 0, "hr@10", 1),
        (10, 0, "hr@10", 0),
        (10, 90, "hr@20", Fraction(10, 91)),
    ],
)
def test_a_metric_by_hand(better: int, ties: int, metric: str, expected: Fraction | float) -> None:
    assert ranks_of([better], [ties]).per_user(metric)[0] == pytest.approx(float(expected), abs=1e-15)


def test_metrics_are_means_over_users() -> None:
    ranks = ranks_of([0, 1, 7, 30], [0, 0, 0, 0])
    assert set(ranks.metrics()) == set(STANDARD) == {f"{n}@{k}" for n in ("hr", "ndcg", "mrr") for k in (5, 10, 20)}
    assert ranks.metrics()["hr@5"] == 0.5
    assert ranks.metrics()["mrr@10"] == pytest.approx((1 + 1 / 2 + 1 / 8) / 4)


@pytest.mark.parametrize("scores", [[3, 3, 3, 3, 1], [5, 3, 3, 2, 3], [1, 1, 1, 0, 0], [1, 2, 3, 4, 5]])
def test_ties_are_the_mean_over_all_orders(scores: list[int]) -> None:
    """Item 1 is the target; items of equal score are put into every possible order."""
    target = scores[0]
    ranks = ranks_of([sum(s > target for s in scores)], [sum(s == target for s in scores) - 1])
    positions = [
        sorted(range(len(scores)), key=lambda item: (-scores[item], order[item])).index(0) + 1
        for order in itertools.permutations(range(len(scores)))
    ]
    for k in (1, 2, 3, 5):
        gains = {"hr": lambda r: 1.0, "ndcg": lambda r: 1 / math.log2(r + 1), "mrr": lambda r: 1 / r}
        for name, gain in gains.items():
            mean = sum(gain(r) if r <= k else 0.0 for r in positions) / len(positions)
            assert ranks.per_user(f"{name}@{k}")[0] == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("removed", ["history", "nothing"])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_a_constant_scorer_gets_exactly_the_chance_level(removed: str, value: float) -> None:
    sequences = random_sequences()
    ranks = ranked(constant(value), sequences, removed=removed)
    examples = sequences.test()
    for k in CUTOFFS:
        expected = []
        for start, stop, target in zip(examples.starts, examples.stops, examples.targets, strict=True):
            hidden = set(sequences.flat[start:stop].tolist()) - {int(target)} if removed == "history" else set()
            expected.append(min(k, ITEMS - len(hidden)) / (ITEMS - len(hidden)))
        np.testing.assert_allclose(ranks.per_user(f"hr@{k}"), expected, rtol=1e-15)


def test_seen_items_are_excluded_or_kept() -> None:
    # The history 2, 3, 4 ends in 4; items 3 and 5 score above the target 1, item 2 ties with it.
    table = torch.zeros(ITEMS + 1, ITEMS + 1)
    table[4, 1:6] = torch.tensor([7.0, 7.0, 8.0, 1.0, 9.0])
    sequences = sequences_of([2, 3, 4, 1])
    kept = ranked(Fixed(table), sequences, removed="nothing")
    assert (kept.better[0], kept.ties[0]) == (2, 1)
    excluded = ranked(Fixed(table), sequences, removed="history")
    assert (excluded.better[0], excluded.ties[0]) == (1, 0)


def test_items_before_what_the_model_sees_are_excluded_too() -> None:
    table = torch.zeros(ITEMS + 1, ITEMS + 1)
    table[4, 2] = 9.0
    ranks = ranked(Fixed(table), sequences_of([2, 3, 4, 1]), max_len=1)
    assert ranks.better[0] == 0


def test_only_what_the_model_sees_is_removed_as_in_the_code_of_lrurec() -> None:
    table = torch.zeros(ITEMS + 1, ITEMS + 1)
    table[4, 1:6] = torch.tensor([1.0, 9.0, 9.0, 9.0, 9.0])
    sequences = sequences_of([2, 3, 4, 1])
    found = ranked(Fixed(table), sequences, removed="window", max_len=2)
    assert (found.better[0], found.ties[0]) == (2, 0)  # items 2 and 5; 3 and 4 are removed
    assert ranked(Fixed(table), sequences, removed="window", max_len=3).better[0] == 1


def test_a_target_that_the_model_sees_cannot_be_hit_in_the_code_of_lrurec() -> None:
    table = torch.zeros(ITEMS + 1, ITEMS + 1)
    table[4, 2] = 9.0
    sequences = sequences_of([2, 3, 4, 2])
    ranks = ranked(Fixed(table), sequences, removed="window")
    assert ranks.better[0] == ITEMS - 3
    assert ranks.per_user("hr@20")[0] == 0
    assert ranked(Fixed(table), sequences, removed="window", max_len=2).better[0] == 0  # it is not in the window


def test_the_model_sees_the_newest_items_only() -> None:
    class Watching(Fixed):
        def score(self, items: Tensor, lengths: Tensor) -> Tensor:
            shown.extend(items.tolist())
            return super().score(items, lengths)

    shown: list[list[int]] = []
    ranked(Watching(torch.zeros(ITEMS + 1, ITEMS + 1)), sequences_of([2, 3, 4, 5, 1], [9, 8, 7]), max_len=3)
    assert [3, 4, 5] in shown
    assert [9, 8, 0] in shown
    assert len(shown) == 3


def test_a_target_that_is_in_the_history_stays() -> None:
    table = torch.zeros(ITEMS + 1, ITEMS + 1)
    table[4, 2] = 9.0
    ranks = ranked(Fixed(table), sequences_of([2, 3, 4, 2]))
    assert (ranks.better[0], ranks.ties[0]) == (0, 0)


@pytest.mark.parametrize("padding", [1e9, math.nan, math.inf])
def test_padding_is_never_recommended(padding: float) -> None:
    model = random_scores()
    expected = ranked(model, random_sequences())
    model.table[:, 0] = padding
    found = ranked(model, random_sequences())
    np.testing.assert_array_equal(found.better, expected.better)
    np.testing.assert_array_equal(found.ties, expected.ties)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_an_error(value: float) -> None:
    model = constant()
    model.table[4, 7] = value
    with pytest.raises(Diverged, match="score of Fixed is not finite") as caught:
        ranked(model, sequences_of([2, 3, 4, 1]))
    assert "learning_rate" in (caught.value.hint or "")


def test_ranks_do_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sequences = random_scores(), random_sequences()
    whole = ranked(model, sequences)
    monkeypatch.setattr(ranking, "BATCH_ELEMENTS", 3 * (ITEMS + 1))
    parts = ranked(model, sequences)
    np.testing.assert_array_equal(parts.better, whole.better)
    np.testing.assert_array_equal(parts.ties, whole.ties)
    np.testing.assert_array_equal(parts.users, sequences.test().users)


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_is_judged_in_evaluation_mode_and_then_left_as_it_was(mode: bool) -> None:
    class Watching(Fixed):
        def score(self, items: Tensor, lengths: Tensor) -> Tensor:
            assert not self.training
            return super().score(items, lengths)

    model = Watching(torch.zeros(ITEMS + 1, ITEMS + 1)).train(mode)
    ranked(model, sequences_of([2, 3, 4, 1]))
    assert model.training is mode


def rankings(model: Fixed, sequences: Sequences) -> tuple[list[list[int]], list[int]]:
    """Every test user's candidates, best first, by plain sorting; and the targets."""
    orders, targets = [], []
    examples = sequences.test()
    for start, stop, target in zip(examples.starts, examples.stops, examples.targets, strict=True):
        history = sequences.flat[start:stop].tolist()
        scores = model.table[history[-1]].tolist()
        candidates = [i for i in range(1, ITEMS + 1) if i == target or i not in history]
        orders.append(sorted(candidates, key=lambda item: -scores[item]))
        targets.append(int(target))
    return orders, targets


@pytest.mark.parametrize("k", CUTOFFS)
def test_agrees_with_plain_sorting(k: int) -> None:
    model, sequences = random_scores(), random_sequences()
    orders, targets = rankings(model, sequences)
    places = [order.index(target) + 1 for order, target in zip(orders, targets, strict=True)]
    metrics = ranked(model, sequences).metrics()
    assert metrics[f"hr@{k}"] == pytest.approx(np.mean([p <= k for p in places]), abs=1e-12)
    assert metrics[f"mrr@{k}"] == pytest.approx(np.mean([(p <= k) / p for p in places]), abs=1e-12)
    assert metrics[f"ndcg@{k}"] == pytest.approx(np.mean([(p <= k) / math.log2(p + 1) for p in places]), abs=1e-12)


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
orders, targets, names = json.load(sys.stdin)
qrels = Qrels({str(user): {str(target): 1} for user, target in enumerate(targets)})
run = Run({str(user): {str(item): float(-at) for at, item in enumerate(order)} for user, order in enumerate(orders)})
print(json.dumps({name: float(value) for name, value in evaluate(qrels, run, names).items()}))
"""


@pytest.mark.slow
def test_agrees_with_ranx() -> None:
    pytest.importorskip("numba")
    model, sequences = random_scores(), random_sequences()
    theirs = {"hr": "hit_rate", "ndcg": "ndcg", "mrr": "mrr"}
    names = {metric: f"{theirs[metric.partition('@')[0]]}@{metric.partition('@')[2]}" for metric in STANDARD}
    done = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([*rankings(model, sequences), list(names.values())]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},  # which would compile for half a minute
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout)
    for metric, value in ranked(model, sequences).metrics().items():
        assert value == pytest.approx(expected[names[metric]], abs=1e-12), metric


@pytest.mark.parametrize("top", [1, 3, ITEMS, ITEMS + 5])
@pytest.mark.parametrize("removed", REMOVALS)
@pytest.mark.parametrize("levels", [ITEMS + 1, 4, 1], ids=["no ties", "ties", "constant"])
def test_the_best_items_are_those_of_plain_sorting(levels: int, removed: str, top: int) -> None:
    model, sequences = random_scores(), random_sequences()
    model.table = model.table.remainder(levels)
    protocol = Protocol(removed=removed, max_len=4)
    examples = sequences.test()
    ranks = rank(model, sequences, examples, protocol, top=top)
    plain = rank(model, sequences, examples, protocol)
    assert plain.top is None
    assert ranks.top is not None
    np.testing.assert_array_equal(ranks.better, plain.better)
    np.testing.assert_array_equal(ranks.ties, plain.ties)
    forbidden = REMOVALS[removed].items(sequences, examples, 4)
    for row, stop in enumerate(examples.stops):
        scores = model.table[sequences.flat[stop - 1]].tolist()
        allowed = sorted(set(range(1, ITEMS + 1)) - set(forbidden[row].tolist()), key=lambda item: -scores[item])
        assert ranks.top[row].tolist() == (allowed + [0] * top)[:top]


def test_the_best_items_are_stored_without_the_places_that_are_empty(tmp_path: Path) -> None:
    users, top = np.array([2, 5, 9]), np.array([[7, 3, 0], [0, 0, 0], [1, 2, 4]])
    ranks = Ranks(users, users, users, top)
    ranks.write_top(tmp_path / "top.parquet")
    found = read_top(tmp_path / "top.parquet")
    assert [values.tolist() for values in found] == [[2, 2, 9, 9, 9], [1, 2, 1, 2, 3], [7, 3, 1, 2, 4]]
    with pytest.raises(ValueError, match="without its best items"):
        Ranks(users, users, users).write_top(tmp_path / "top.parquet")


class Factored(SequenceModel):
    """Scores of small whole numbers, exact in every order of summation and full of ties: states times a table."""

    def __init__(self, items: int = ITEMS, seed: int = 0) -> None:
        super().__init__(items, 50, ModelConfig())
        generator = torch.Generator().manual_seed(seed)
        drawn = (torch.randint(-1, 2, shape, generator=generator).float() for shape in ((items + 1, 4), (items + 1,)))
        self.embedding, self.bias = map(torch.nn.Parameter, drawn)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        return self.embedding[items]

    def item_weights(self) -> Tensor:
        return self.embedding

    def item_bias(self) -> Tensor:
        return self.bias


class Whole(Factored):
    """The same scores, given at once."""

    def score(self, items: Tensor, lengths: Tensor) -> Tensor:
        return super().score(items, lengths)


@pytest.mark.parametrize("removed", REMOVALS)
@pytest.mark.parametrize("top", [0, 3, ITEMS + 5])
def test_scores_that_are_never_held_give_the_same_ranks_and_best_items(removed: str, top: int) -> None:
    sequences = random_sequences()
    protocol = Protocol(removed=removed, max_len=4)
    found, expected = (rank(cls(), sequences, sequences.test(), protocol, top) for cls in (Factored, Whole))
    assert expected.ties.max() > 2
    np.testing.assert_array_equal(found.better, expected.better)
    np.testing.assert_array_equal(found.ties, expected.ties)
    assert (found.top is None) == (expected.top is None) == (top == 0)
    if found.top is not None:
        np.testing.assert_array_equal(found.top, expected.top)


def test_a_model_that_multiplies_with_a_table_is_not_asked_for_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequenceModel, "score_states", None)
    ranked(Factored(), random_sequences())
    with pytest.raises(TypeError):
        ranked(Whole(), random_sequences())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_padding_of_a_table_may_be_anything_and_an_item_may_not(value: float) -> None:
    model, sequences = Factored(), random_sequences()
    expected = ranked(model, sequences)
    model.bias.data[0] = value
    np.testing.assert_array_equal(ranked(model, sequences).better, expected.better)
    for broken in (model, Factored()):
        broken.bias.data[7] = value
        with pytest.raises(Diverged, match="score of Factored is not finite"):
            ranked(broken, sequences)


def table(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


GOOD = {"user_id": [1, 2], "better": [3, 4], "ties": [0, 0]}
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "fifo": os.mkfifo,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("user,better,ties\n1,2,3\n"),
    "truncated": lambda path: (table(**GOOD)(path), path.write_bytes(path.read_bytes()[:-9])),
    "changed": lambda path: (table(**GOOD)(path), path.write_bytes(path.read_bytes().replace(b"PAR1", b"PAR2"))),
    "no rows": table(**{name: pa.array([], pa.int32()) for name in GOOD}),
    "another column": table(user_id=[1], better=[1], tied=[1]),
    "text in a column": table(**(GOOD | {"ties": ["0", "0"]})),
    "fractions": table(**(GOOD | {"better": [1.5, 2.0]})),
    "nested": table(**(GOOD | {"better": [[1], [2]]})),
    "nothing in a row": table(**(GOOD | {"better": [1, None]})),
    "negative": table(**(GOOD | {"ties": [-1, 0]})),
    "too large": table(**(GOOD | {"better": pa.array([2**63, 0], pa.uint64())})),
    "a user twice": table(**(GOOD | {"user_id": [1, 1]})),
    "user 0": table(**(GOOD | {"user_id": [0, 1]})),
    "billions of rows": lambda path: table(**{name: np.ones(2_000_000, np.int32) for name in GOOD})(path),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_ranks_that_are_damaged_are_refused_in_words(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_file, "ROW_LIMIT", 1_000_000)
    path = tmp_path / "ranks.parquet"
    DAMAGE[how](path)
    with pytest.raises(SeqbenchError, match=r"ranks\.parquet (is damaged|cannot be read)") as caught:
        Ranks.read(path)
    assert "seqbench run" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": [2, 3, 1]},
        {"position": [1, 3, 1]},
        {"position": [1, 2, 2]},
        {"user_id": [3, 3, 2]},
        {"item_id": [0, 1, 2]},
        {"user_id": [2, 2, 2]},
    ],
    ids=str,
)
def test_best_items_out_of_order_are_refused(wrong: dict[str, list[int]], tmp_path: Path) -> None:
    good = {"user_id": [2, 2, 3], "position": [1, 2, 1], "item_id": [5, 6, 7]}
    path = tmp_path / "top.parquet"
    table(**good)(path)
    assert [values.tolist() for values in read_top(path)] == list(good.values())
    table(**(good | wrong))(path)
    with pytest.raises(SeqbenchError, match=r"top\.parquet is damaged"):
        read_top(path)


def test_stored_ranks_give_the_same_metrics(tmp_path: Path) -> None:
    ranks = ranked(random_scores(), random_sequences())
    ranks.write(tmp_path / "ranks.parquet")
    again = Ranks.read(tmp_path / "ranks.parquet")
    for name in ("users", "better", "ties"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ranks, name))
        assert getattr(again, name).dtype == np.int64
    assert again.metrics() == ranks.metrics()
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.parquet"]
