"""Attention with SiLU against plain loops in double precision: results, every gradient, and what memory it takes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench.ops import silu_attention
from seqbench.ops.functions.silu_attention import OPERATOR, silu_attention_last
from seqbench.ops.pytorch import silu_attention as blocked
from tests.ops.opskit import REGISTRATION

LENGTHS = (1, 2, 63, 64, 65, 130)
FLOATS = ("query", "key", "value", "position_bias", "time_bias")


def problem(T: int, *, timed: bool, B: int = 2, H: int = 2, E: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(T)
    drawn: dict[str, Any] = {
        name: torch.randn(B, H, T, E, generator=generator, dtype=torch.float64) for name in ("query", "key", "value")
    }
    drawn["position_bias"] = torch.randn(T + 2, generator=generator, dtype=torch.float64)
    if timed:
        events = torch.randint(0, 10**6, (B, T), generator=generator).cumsum(1)
        drawn["time_bias"] = torch.randn(50, generator=generator, dtype=torch.float64)
        drawn |= {"events": events, "requests": events + torch.randint(0, 10**7, (B, T), generator=generator)}
    return drawn


def by_loops(given: dict[str, Any], scale: float) -> Tensor:
    """The formula, number by number."""
    query, key, value, times = given["query"], given["key"], given["value"], given.get("time_bias")
    rows = []
    for b, h in torch.cartesian_prod(torch.arange(len(query)), torch.arange(query.shape[1])).tolist():
        for p in range(query.shape[2]):
            total = torch.zeros(query.shape[3], dtype=query.dtype)
            for j in range(p + 1):
                score = query[b, h, p] @ key[b, h, j] + given["position_bias"][p - j]
                if times is not None:
                    gap = abs(int(given["requests"][b, p] - given["events"][b, j]))
                    score = score + times[min(int(math.log(max(1, gap)) / 0.301), len(times) - 1)]
                total = total + score * torch.sigmoid(score) * value[b, h, j]
            rows.append(scale * total)
    return torch.stack(rows).view_as(query)


def differentiated(run: Any, given: dict[str, Any], weights: Tensor) -> list[Tensor]:
    """The result of `run` and its gradients."""
    leaves = {name: given[name].clone().requires_grad_() for name in FLOATS if name in given}
    result = run(given | leaves)
    return [result.detach(), *torch.autograd.grad((result * weights).sum(), list(leaves.values()))]


@pytest.mark.parametrize("timed", [False, True])
def test_the_reference_is_the_formula(timed: bool) -> None:
    given = problem(7, timed=timed)
    found = silu_attention(**given, scale=0.3, backend="reference")
    torch.testing.assert_close(found, by_loops(given, 0.3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_blocks_give_the_results_and_gradients_of_the_reference(T: int, timed: bool, dtype: torch.dtype) -> None:
    given = problem(T, timed=timed)
    weights = torch.randn_like(given["query"])
    expected = differentiated(lambda each: silu_attention(**each, scale=0.3, backend="reference"), given, weights)
    single = {name: each.to(dtype) if name in FLOATS else each for name, each in given.items()}
    found = differentiated(lambda each: silu_attention(**each, scale=0.3, backend="torch"), single, weights.to(dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@pytest.mark.parametrize("timed", [False, True])
def test_the_last_position_is_that_of_all_for_rows_of_any_length(timed: bool) -> None:
    given, lengths = problem(9, timed=timed, B=3), torch.tensor([9, 1, 4])
    rows, weights = torch.arange(3), torch.randn(3, 2, 3, dtype=torch.float64)

    def last(each: dict[str, Any]) -> Tensor:
        asked = {"query": each["query"][rows, :, lengths - 1]}
        if timed:
            asked["requests"] = each["requests"][rows, lengths - 1]
        return silu_attention_last(**each | asked, lengths=lengths, scale=0.3)

    def of_all(each: dict[str, Any]) -> Tensor:
        return silu_attention(**each, scale=0.3)[rows, :, lengths - 1]

    for ours, theirs in zip(*(differentiated(run, given, weights) for run in (last, of_all)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_nothing_that_is_held_grows_with_the_square_of_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "QUERIES", 8)
    largest = {}

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for each in result if isinstance(result, tuple | list) else [result]:
                if isinstance(each, Tensor):
                    largest[T] = max(largest[T], each.untyped_storage().nbytes())
            return result

    for T in (64, 256):
        largest[T] = 0
        with Watch():
            differentiated(
                lambda each: silu_attention(**each, backend="torch"), problem(T, timed=True), torch.ones(2, 2, T, 3)
            )
    assert largest[256] <= 4.1 * largest[64]


@pytest.mark.parametrize("timed", [False, True])
def test_torch_knows_its_schema_and_its_gradient(timed: bool) -> None:
    given = problem(9, timed=timed)
    arguments = [given[name].requires_grad_() if name in given else None for name in FLOATS]
    arguments += [given.get("events"), given.get("requests"), 0.3, "torch"]
    torch.library.opcheck(OPERATOR._traced, tuple(arguments), test_utils=REGISTRATION)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("query", torch.zeros(2, 9, 3), r"query must be \(B, H, T, E\)"),
        ("key", torch.zeros(2, 2, 8, 3, dtype=torch.float64), r"key must be \(2, 2, 9, 3\)"),
        ("position_bias", torch.zeros(8, dtype=torch.float64), "9 or more"),
        ("events", None, "belong together"),
        ("requests", torch.zeros(2, 9), "of int64"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        silu_attention(**problem(9, timed=True) | {name: value})
