"""rank_counts and top_k: exact counts and order, ties included, in every backend, however items and states are cut."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqbench.ops import rank_counts, top_k
from seqbench.ops.backends import BACKENDS
from seqbench.ops.cpu import binding
from seqbench.ops.cpu import scores as cpu_scores
from seqbench.ops.pytorch import scores as torch_scores
from tests.ops.opskit import implementation

FAST = ["cpu", "torch"]
Problem = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]


@pytest.fixture(params=FAST)
def fast(request: pytest.FixtureRequest) -> Iterator[str]:
    with implementation(request.param, "rank_counts") as name:
        yield name


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, slices and chunks even of few items."""
    monkeypatch.setitem(torch_scores.BLOCK_BYTES, "cpu", 0)
    monkeypatch.setattr(cpu_scores, "slices", lambda V: min(3, V))


def whole_numbers(N: int, V: int, D: int, E: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Problem:
    """A problem whose scores are small whole numbers: exact in every order of summation, and full of ties."""
    g = torch.Generator().manual_seed(seed)
    states, items = (torch.randint(-2, 3, (rows, D), generator=g).to(dtype) for rows in (N, V))
    bias = torch.randint(-2, 3, (V,), generator=g).to(dtype)
    return states, items, bias, torch.randint(0, V, (N,), generator=g), torch.randint(0, V, (N, E), generator=g)


def plainly(states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, excluded: Tensor) -> list[Any]:
    """Better and ties of every row, item by item in double precision, and all items from the best to the worst."""
    scores = states.double() @ items.double().t() + (0 if bias is None else bias.double())
    found = []
    for row, target, out in zip(scores.tolist(), targets.tolist(), excluded.tolist(), strict=True):
        values = [-torch.inf if item in set(out) else score for item, score in enumerate(row)]
        better = sum(value > values[target] for value in values)
        ties = sum(value == values[target] for value in values) - 1
        order = sorted(range(len(values)), key=lambda item: (-values[item], item))
        found.append((better, ties, [(values[item], item) for item in order if values[item] > -torch.inf]))
    return found


@pytest.mark.parametrize("name", [*FAST, "reference"])
@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 40), st.integers(1, 150), st.integers(0, 20), st.integers(0, 6)),
    with_bias=st.booleans(),
    double=st.booleans(),
    k=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_counts_and_best_are_exact_for_any_shape(
    name: str, shape: tuple[int, int, int, int], with_bias: bool, double: bool, k: int, seed: int
) -> None:
    states, items, bias, targets, excluded = whole_numbers(*shape, seed, torch.float64 if double else torch.float32)
    bias = bias if with_bias else None
    with implementation(name, "rank_counts") as backend:
        better, ties, finite = rank_counts(states, items, bias, targets, excluded, backend=backend)
        scores, ids = top_k(states, items, bias, excluded, k, backend=backend)
    assert finite.all()
    assert scores.shape == ids.shape == (shape[0], k)
    assert scores.dtype == states.dtype
    expected = plainly(states, items, bias, targets, excluded)
    assert better.tolist() == [row[0] for row in expected]
    assert ties.tolist() == [row[1] for row in expected]
    for row, (_, _, best) in enumerate(expected):
        padded = (best + [(-torch.inf, 0)] * k)[:k]
        assert list(zip(scores[row].tolist(), ids[row].tolist(), strict=True)) == padded


def test_counts_are_those_of_all_scores_at_once(fast: str) -> None:
    """Real numbers, as a trained model has them."""
    g = torch.Generator().manual_seed(0)
    states, items = torch.randn(70, 64, generator=g), torch.randn(3001, 64, generator=g) / 8
    bias, targets = torch.randn(3001, generator=g), torch.randint(0, 3001, (70,), generator=g)
    excluded = torch.randint(0, 3001, (70, 30), generator=g)
    scores = states.double() @ items.double().t() + bias.double()
    scores = scores.scatter(1, excluded, -torch.inf)
    level = scores.gather(1, targets.unsqueeze(1))
    rounding = 1e-5  # what is closer to the target than this may be on either side in single precision
    better, _, _ = rank_counts(states, items, bias, targets, excluded, backend=fast)
    assert (better >= (scores > level + rounding).sum(dim=1)).all()
    assert (better <= (scores > level - rounding).sum(dim=1)).all()


def test_items_with_equal_rows_are_ties_wherever_they_stand(fast: str) -> None:
    g = torch.Generator().manual_seed(0)
    distinct, states = torch.randn(7, 33, generator=g), torch.randn(50, 33, generator=g)
    copies = torch.arange(400) % 7
    targets = torch.arange(50) * 7
    better, ties, _ = rank_counts(
        states, distinct[copies], None, targets, torch.zeros(50, 0, dtype=torch.int64), backend=fast
    )
    scores = states.double() @ distinct.double().t()
    once = (scores > scores[:, :1]).long()
    assert torch.equal(ties, (copies == 0).sum().expand(50) - 1)
    assert torch.equal(better, once @ torch.bincount(copies))


def test_a_target_among_the_excluded_is_behind_all_others(fast: str) -> None:
    states, items, bias, targets, _ = whole_numbers(3, 50, 4, 0)
    excluded = torch.stack([targets, targets, (targets + 1) % 50], dim=1)
    better, ties, _ = rank_counts(states, items, bias, targets, excluded, backend=fast)
    assert better.tolist() == [48] * 3
    assert ties.tolist() == [1] * 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["states", "items", "bias"])
def test_scores_that_are_not_finite_are_told(where: str, value: float, fast: str) -> None:
    states, items, bias, targets, excluded = whole_numbers(20, 60, 3, 2)
    items += 3  # so that nothing is zero
    {"states": states, "items": items, "bias": bias}[where].view(-1)[7] = value  # row 2 of states and of items
    _, _, finite = rank_counts(states.abs() + 1, items, bias, targets, excluded, backend=fast)
    assert finite.tolist() == [where == "states" and row != 2 for row in range(20)]


def test_takes_tables_of_any_stride(fast: str) -> None:
    states, items, bias, targets, excluded = whole_numbers(9, 80, 6, 3)
    assert bias is not None
    expected = rank_counts(states, items, bias, targets, excluded, backend="reference")
    wide = torch.cat([items, items + 1], dim=1)
    cut = (states.t().contiguous().t(), wide[:, :6], bias.repeat_interleave(2)[::2], targets, excluded)
    down = (states, items.t().contiguous().t(), bias, targets, excluded.t().contiguous().t())
    for arguments in (cut, down):
        for found, true in zip(rank_counts(*arguments, backend=fast), expected, strict=True):
            assert torch.equal(found, true)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_scored_in_single(dtype: torch.dtype, fast: str) -> None:
    states, items, bias, targets, excluded = whole_numbers(9, 80, 6, 3, dtype=dtype)
    assert bias is not None
    wide = (states.float(), items.float(), bias.float())
    expected = rank_counts(*wide, targets, excluded, backend="reference")
    for found, true in zip(rank_counts(states, items, bias, targets, excluded, backend=fast), expected, strict=True):
        assert torch.equal(found, true)
    scores, ids = top_k(states, items, bias, excluded, 5, backend=fast)
    assert scores.dtype == dtype
    assert torch.equal(ids, top_k(*wide, excluded, 5, backend="reference")[1])


@pytest.mark.parametrize("pool", ["torch's threads", "threads of its own"])
def test_neither_threads_nor_other_states_change_a_bit(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := BACKENDS["cpu"].unavailable("top_k", "cpu"):
        pytest.skip(reason)
    if pool == "threads of its own":
        monkeypatch.setattr(binding, "_torch_threads", lambda: None)
    g = torch.Generator().manual_seed(0)
    states, items = torch.randn(37, 40, generator=g), torch.randn(4001, 40, generator=g)
    targets, excluded = torch.randint(0, 4001, (37,), generator=g), torch.randint(0, 4001, (37, 9), generator=g)
    assert states.numel() * len(items) >= 3 << 20  # the kernels' least share of a thread
    runs = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(cpu_scores, "slices", lambda V, threads=threads: 2 * threads - 1)
        counts = rank_counts(states, items, None, targets, excluded, backend="cpu")
        runs.append((*counts, *top_k(states, items, None, excluded, 20, backend="cpu")))
    alone = [
        (
            *rank_counts(states[n : n + 1], items, None, targets[n : n + 1], excluded[n : n + 1], backend="cpu"),
            *top_k(states[n : n + 1], items, None, excluded[n : n + 1], 20, backend="cpu"),
        )
        for n in range(37)
    ]
    runs.append(tuple(torch.cat(column) for column in zip(*alone, strict=True)))
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert torch.equal(one, other)


def test_memory_does_not_grow_with_the_catalogue(fast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_scores.BLOCK_BYTES, "cpu", 1 << 14)
    largest = 0

    def watched(original: Any) -> Any:
        def function(*args: Any, **kwargs: Any) -> Tensor:
            nonlocal largest
            tensor: Tensor = original(*args, **kwargs)
            largest = max(largest, tensor.numel())
            return tensor

        return function

    states, items, bias, targets, excluded = whole_numbers(40, 20_000, 4, 3)
    monkeypatch.setattr(torch, "empty", watched(torch.empty))
    monkeypatch.setattr(Tensor, "new_empty", watched(Tensor.new_empty))
    rank_counts(states, items, bias, targets, excluded, backend=fast)
    top_k(states, items, bias, excluded, 3, backend=fast)
    assert 0 < largest <= 40 * 200


@pytest.mark.parametrize("name", [*FAST, "reference"])
@pytest.mark.parametrize(("where", "item"), [("targets", 7), ("targets", -1), ("excluded", 7), ("excluded", -1)])
def test_refuses_items_that_there_are_not(where: str, item: int, name: str) -> None:
    states, items, bias, targets, excluded = whole_numbers(3, 7, 2, 2)
    {"targets": targets, "excluded": excluded}[where].view(-1)[1] = item
    with implementation(name, "rank_counts") as backend, pytest.raises((IndexError, RuntimeError), match="out of b"):
        rank_counts(states, items, bias, targets, excluded, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(3)}, "states must be"),
        ({1: torch.zeros(7, 5)}, "items must be"),
        ({1: torch.zeros(0, 2)}, "at least one item"),
        ({1: torch.zeros(7, 2, dtype=torch.float64)}, "items is torch.float64"),
        ({2: torch.zeros(6)}, "bias must be"),
        ({3: torch.zeros(4, dtype=torch.int64)}, "targets must be"),
        ({4: torch.zeros(3, 2, dtype=torch.int32)}, "excluded must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_what_does_not_fit(change: dict[int, Tensor], message: str) -> None:
    arguments = dict(enumerate(whole_numbers(3, 7, 2, 2))) | change
    with pytest.raises(ValueError, match=message):
        rank_counts(*arguments.values())  # type: ignore[arg-type]


def test_refuses_to_find_none() -> None:
    states, items, bias, _, excluded = whole_numbers(3, 7, 2, 2)
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_k(states, items, bias, excluded, 0)


def test_operators_are_well_registered(fast: str) -> None:
    states, items, bias, targets, excluded = whole_numbers(3, 30, 2, 2)
    checks = ("test_schema", "test_faketensor")
    operators = torch.ops.seqbench
    for operator, arguments in (
        (operators.rank_counts.default, (states, items, bias, targets, excluded, fast)),
        (operators.top_k.default, (states, items, bias, excluded, 3, fast)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=checks)
