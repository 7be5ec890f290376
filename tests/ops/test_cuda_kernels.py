"""The CUDA kernels of the two gated scans, run on the CPU, against the plain loops in double precision.

Those of the linear scan are tested with every other backend's, in test_linear_scan.py.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench.ops.rg_lru import rg_lru
from tests.ops.host_cuda import on_the_host
from tests.ops.test_linear_scan import LENGTHS, assert_close

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=["channels", "chunked"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_the_host(request.param):
        yield request.param


def differentiated(function: Any, tensors: dict[str, Tensor], cotangents: list[Tensor], **options: Any) -> list[Tensor]:
    """Results of `function`, then gradients of Σ cotangent · result in the order of `tensors`."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    results = function(**leaves, **options)
    results = results if isinstance(results, tuple) else (results,)
    loss = sum((result * cotangent).sum() for result, cotangent in zip(results, cotangents, strict=True))
    return [*(result.detach() for result in results), *torch.autograd.grad(loss, list(leaves.values()))]


def compare(function: Any, tensors: dict[str, Tensor], cotangents: list[Tensor], **options: Any) -> None:
    """Results and gradients of the CUDA kernels with those of the reference in float64, both from the same numbers."""
    dtype = cotangents[0].dtype
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    truth = differentiated(function, wide, [tensor.double() for tensor in cotangents], backend="reference", **options)
    ours = differentiated(function, tensors, cotangents, backend="cuda", **options)
    for index, (mine, true) in enumerate(zip(ours, truth, strict=True)):
        assert mine.dtype == dtype
        named = index - len(cotangents)
        assert_close(mine, true, dtype, list(tensors)[named] if named >= 0 else f"result {index}")


def rg_lru_problem(B: int, T: int, D: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "inputs": torch.randn(B, T, D).to(dtype),
        "gates": (3 * torch.randn(B, T, 2 * D)).to(dtype),
        "decay": torch.randn(D).to(dtype),
        "initial_state": torch.randn(B, D).to(dtype),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T", LENGTHS)
def test_rg_lru_equals_the_reference_at_awkward_lengths(T: int, dtype: torch.dtype, form: str) -> None:
    B = 3 if T < 1000 else 1
    compare(rg_lru, rg_lru_problem(B, T, 5, dtype), [torch.randn(B, T, 5).to(dtype)])


@pytest.mark.parametrize("D", [1, 3, 63, 65, 130])
def test_rg_lru_equals_the_reference_at_awkward_widths(D: int, form: str) -> None:
    compare(rg_lru, rg_lru_problem(2, 9, D, torch.float32), [torch.randn(2, 9, D)])


def test_rg_lru_with_gates_that_are_all_but_open_or_closed(form: str) -> None:
    """Decays between e⁻³⁰ and 1 - e⁻³⁰, on both sides of softplus's threshold, and a gate that lets nothing in."""
    problem = rg_lru_problem(2, 40, 6, torch.float64)
    problem["decay"] = torch.tensor([-30.0, -5.0, 0.0, 19.9, 20.1, 30.0], dtype=torch.float64)
    problem["gates"][:, ::3] = 30
    problem["gates"][:, 1::3] = -30
    compare(rg_lru, problem, [torch.randn(2, 40, 6, dtype=torch.float64)])


def test_rg_lru_takes_strided_tensors(form: str) -> None:
    problem = rg_lru_problem(3, 20, 4, torch.float64)
    strided = {
        "inputs": problem["inputs"].transpose(0, 1).contiguous().transpose(0, 1),
        "gates": torch.randn(3, 20, 11, dtype=torch.float64)[..., 2:10],
        "decay": torch.randn(8, dtype=torch.float64)[::2],
        "initial_state": torch.randn(4, 3, dtype=torch.float64).t(),
    }
    cotangent = torch.randn(3, 4, 20, dtype=torch.float64).transpose(1, 2)
    states = rg_lru(**strided, backend="cuda")
    torch.testing.assert_close(states, rg_lru(**strided, backend="reference"))
    compare(rg_lru, strided, [cotangent])


def test_rg_lru_gradcheck(form: str) -> None:
    problem = rg_lru_problem(2, 7, 3, torch.float64)
    leaves = [tensor.requires_grad_() for tensor in problem.values()]
    assert torch.autograd.gradcheck(lambda *tensors: rg_lru(*tensors, backend="cuda"), leaves)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_rg_lru_of_nothing(shape: tuple[int, int, int], form: str) -> None:
    problem = rg_lru_problem(*shape, torch.float32)
    results = differentiated(rg_lru, problem, [torch.randn(shape)], backend="cuda")
    for result, expected in zip(results, [torch.empty(shape), *problem.values()], strict=True):
        assert result.shape == expected.shape
        assert not result.any()
