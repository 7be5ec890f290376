"""Shared by the tests of the scans: tolerances, every implementation, results with their gradients."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench.ops.backends import BACKENDS
from seqbench.ops.pytorch import linear_scan as torch_scan
from tests.ptx.gpu import emulated

# Largest deviation, relative to the largest value of the compared tensor.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.complex128: 1e-12,
    torch.float32: 2e-6,
    torch.complex64: 2e-6,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-3,
}
# How far a gradient that is a sum over rows, time or channels may be off, as a multiple of the tolerance (of which 2e-6
# in float32 is 33 u, u = 2^-24). In the selective scan a step's decay exp(Δ·A) is off by 5 u: the hardware's exp2 by
# two units in the last place, 4 u, and the product by one. A state remembers h = 1/(1 - mean decay) of them, up to 13
# steps here, and so does its gradient: a term of the sum for A, a product of both, has 2 h + 3 such errors, of either
# sign, which make about √(2 h + 3) · 5 u = 27 u. Terms have either sign, too: their sizes add up to a multiple of the
# largest sum, about 3 where there are many sums, which makes 81 u of the 134 u allowed. Where there are few it has been
# 34 for a constant gate, and 119 for the read-out of one step, of terms off by one u.
SUMMED = {
    "linear_scan": {"gates": 2.0},
    "rg_lru": {"decay": 2.0},
    "selective_scan": {"decay": 4.0, "drive": 4.0, "readout": 4.0, "skip": 2.0},
    "linear_cross_entropy": {},
}
# Of torch.library.opcheck: schema, gradient, fake tensors, and that it can be compiled for any shape.
REGISTRATION = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return a few combinations of the factors' values in which any two values of two factors meet.

    A covering array of strength two, chosen greedily, in place of a product.
    """
    rows = {row: set(combinations(enumerate(row), 2)) for row in product(*(range(len(values)) for values in factors))}
    chosen = []
    while True:
        row, met = max(rows.items(), key=lambda item: len(item[1]))
        if not met:
            return chosen
        chosen.append(tuple(values[index] for values, index in zip(factors, row, strict=True)))
        rows = {other: pairs - met for other, pairs in rows.items()}


def rotating(combinations: Iterable[tuple[Any, ...]], values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Give every combination one of the values, each in turn and shifted by one in every round.

    A covering array in place of a product: every value meets every value of the combinations' last, fastest factor.
    """
    return [(*c, values[(i + i // len(values)) % len(values)]) for i, c in enumerate(combinations)]


@contextmanager
def implementation(name: str, operator: str) -> Iterator[str]:
    """Yield the backend that `name`, "backend" or "backend-form", stands for; skips the test if it cannot run here.

    The CUDA kernels run on the CPU here.
    """
    backend, _, form = name.partition("-")
    if backend == "cuda":
        with emulated(form):
            yield backend
        return
    if reason := BACKENDS[backend].unavailable(operator, "cpu"):
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        if form:
            patch.setitem(torch_scan.SEQUENTIAL_FROM, "cpu", 0 if form == "sequential" else 1 << 40)
        yield backend


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, what: str, factor: float = 1) -> None:
    """Compare with an expected tensor of double precision; `factor` allows for sums that cancel."""
    expected = expected.to(torch.complex128 if expected.is_complex() else torch.float64)
    error = (actual.to(expected.dtype) - expected).abs().max().item() if expected.numel() else 0.0
    scale = max(expected.abs().max().item(), torch.finfo(dtype).tiny) if expected.numel() else 1.0
    assert error <= factor * TOLERANCE[dtype] * scale, f"{what}: error {error:.2e} of {scale:.2e} in {dtype}"


def differentiated(
    function: Callable[..., Any], tensors: dict[str, Tensor], cotangents: list[Tensor], **options: Any
) -> dict[str, Tensor]:
    """Return results of `function`, then gradients of Σ cotangent · result by the names of `tensors`."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    results = function(**leaves, **options)
    results = results if isinstance(results, tuple) else (results,)
    loss = sum((result * cotangent).sum() for result, cotangent in zip(results, cotangents, strict=True))
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    found = {f"result {index}": result.detach() for index, result in enumerate(results)}
    return found | dict(zip(leaves, gradients, strict=True))


def coarse(tensor: Tensor) -> Tensor:
    """Return double precision, rounded so that every narrower type holds it exactly: one reference serves all."""
    return tensor.bfloat16().half().double()


def assert_equals(
    expected: dict[str, Tensor],
    function: Callable[..., Any],
    tensors: dict[str, Tensor],
    cotangents: list[Tensor],
    dtype: torch.dtype,
    **options: Any,
) -> None:
    """Results and gradients in `dtype` are those of the reference in double precision."""
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    found = differentiated(function, tensors, [cotangent.to(dtype) for cotangent in cotangents], **options)
    for name, value in expected.items():
        assert found[name].dtype == dtype
        assert found[name].shape == value.shape
        assert_close(found[name], value, dtype, name)
