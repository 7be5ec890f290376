"""The CUDA kernels of the two gated scans, run from their PTX, against the plain loops in double precision.

Those of the linear scan are tested with every other backend's, in test_linear_scan.py.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench.ops import rg_lru, selective_scan
from tests.ops.opskit import SUMMED, assert_close, coarse, rotating
from tests.ptx.gpu import emulated

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LENGTHS = (1, 2, 7, 8, 31, 63, 200, 1025)
FORMS = ("channels", "chunked")
SHARED_FORMS = ("channels", "channels, shared", "chunked")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated(request.param):
        yield request.param


def differentiated(function: Any, tensors: dict[str, Tensor], cotangents: list[Tensor], **options: Any) -> list[Tensor]:
    """Results of `function`, then gradients of Re Σ conj(cotangent) · result in the order of `tensors`."""
    # Neither cloned nor summed: the kernels get the strides that tensors and cotangents have.
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    results = function(**leaves, **options)
    results = results if isinstance(results, tuple) else (results,)
    return [*(result.detach() for result in results), *torch.autograd.grad(results, list(leaves.values()), cotangents)]


def answer(function: Any, tensors: dict[str, Tensor], cotangents: list[Tensor], **options: Any) -> list[Tensor]:
    """Results and gradients of the reference in double precision."""
    double = torch.complex128 if cotangents[0].is_complex() else torch.float64
    wide = {name: tensor.to(double) for name, tensor in tensors.items()}
    return differentiated(function, wide, [tensor.to(double) for tensor in cotangents], backend="reference", **options)


def compare(
    function: Any,
    tensors: dict[str, Tensor],
    cotangents: list[Tensor],
    device: str = "cpu",
    truth: list[Tensor] | None = None,
    **options: Any,
) -> None:
    """Results and gradients of the CUDA kernels with those of the reference in double precision, given or computed."""
    truth = truth or answer(function, tensors, cotangents, **options)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    cotangents = [tensor.to(device) for tensor in cotangents]
    ours = differentiated(function, tensors, cotangents, backend="cuda", **options)
    for index, (mine, true) in enumerate(zip(ours, truth, strict=True)):
        assert mine.dtype == cotangents[0].dtype
        named = index - len(cotangents)
        name = list(tensors)[named] if named >= 0 else f"result {index}"
        assert_close(mine.cpu(), true, mine.dtype, name, SUMMED[function.__name__].get(name, 1.0))


@cache
def solved(function: Any, B: int, T: int, D: int, *states: int) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
    """A problem of numbers that every element type holds, its cotangents, and the reference's answer."""
    if function is rg_lru:
        tensors = rg_lru_problem(B, T, D, torch.float64)
        cotangents = [torch.randn(B, T, D)]
    else:
        tensors = selective_problem(B, T, D, states[0], torch.float64)
        cotangents = selective_cotangents(tensors)
    tensors = {name: coarse(tensor) for name, tensor in tensors.items()}
    cotangents = [coarse(tensor) for tensor in cotangents]
    return tensors, cotangents, answer(function, tensors, cotangents)


def compare_solved(function: Any, B: int, T: int, D: int, *states: int, dtype: torch.dtype) -> None:
    tensors, cotangents, truth = solved(function, B, T, D, *states)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    compare(function, tensors, [tensor.to(dtype) for tensor in cotangents], truth=truth)


def rg_lru_problem(B: int, T: int, D: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "inputs": torch.randn(B, T, D).to(dtype),
        "gates": (3 * torch.randn(B, T, 2 * D)).to(dtype),
        "decay": torch.randn(D).to(dtype),
        "initial_state": torch.randn(B, D).to(dtype),
    }


@pytest.mark.parametrize(("T", "form", "dtype"), rotating(product(LENGTHS, FORMS), DTYPES), ids=str)
def test_rg_lru_equals_the_reference_at_awkward_lengths(T: int, form: str, dtype: torch.dtype) -> None:
    with emulated(form):
        compare_solved(rg_lru, 3 if T < 1000 else 1, T, 5, dtype=dtype)


@pytest.mark.parametrize(("D", "form", "dtype"), rotating(product([1, 3, 63, 65, 130], FORMS), DTYPES), ids=str)
def test_rg_lru_equals_the_reference_at_awkward_widths(D: int, form: str, dtype: torch.dtype) -> None:
    with emulated(form):
        compare_solved(rg_lru, 2, 9, D, dtype=dtype)


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
    assert torch.autograd.gradcheck(lambda *tensors: rg_lru(*tensors, backend="cuda"), leaves, fast_mode=True)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_rg_lru_of_nothing(shape: tuple[int, int, int], form: str) -> None:
    problem = rg_lru_problem(*shape, torch.float32)
    results = differentiated(rg_lru, problem, [torch.randn(shape)], backend="cuda")
    for result, expected in zip(results, [torch.empty(shape), *problem.values()], strict=True):
        assert result.shape == expected.shape
        assert not result.any()


@pytest.fixture(params=SHARED_FORMS)
def sharing(request: pytest.FixtureRequest) -> Iterator[None]:
    """The backward pass takes groups of channels one after the other, or all at once, and time whole or in chunks."""
    with emulated(request.param):
        yield


def selective_problem(B: int, T: int, D: int, N: int, dtype: torch.dtype, optional: bool = True) -> dict[str, Tensor]:
    problem = {
        "inputs": torch.randn(B, T, D),
        "deltas": torch.rand(B, T, D),
        "decay": -0.1 - 2 * torch.rand(D, N),
        "drive": torch.randn(B, T, N),
        "readout": torch.randn(B, T, N),
    }
    if optional:
        problem |= {"skip": torch.randn(D), "gate": torch.randn(B, T, D), "initial_state": torch.randn(B, D, N)}
    return {name: tensor.to(dtype) for name, tensor in problem.items()}


def selective_cotangents(problem: dict[str, Tensor]) -> list[Tensor]:
    (B, _, D), N, dtype = problem["inputs"].shape, problem["decay"].shape[1], problem["inputs"].dtype
    return [torch.randn(problem["inputs"].shape).to(dtype), torch.randn(B, D, N).to(dtype)]


@pytest.mark.parametrize(("T", "form", "dtype"), rotating(product(LENGTHS, SHARED_FORMS), DTYPES), ids=str)
def test_selective_scan_equals_the_reference_at_awkward_lengths(T: int, form: str, dtype: torch.dtype) -> None:
    with emulated(form):
        compare_solved(selective_scan, 3 if T < 100 else 1, T, 5, 3, dtype=dtype)


WIDTHS = (1, 7, 33, 70)
STATES = (1, 3, 8, 9, 16, 17, 32, 50, 64, 100, 128, 129, 256)


@pytest.mark.parametrize(("N", "form", "D"), rotating(product(STATES, SHARED_FORMS), WIDTHS), ids=str)
def test_selective_scan_equals_the_reference_at_awkward_widths(N: int, form: str, D: int) -> None:
    with emulated(form):
        compare_solved(selective_scan, 2, 3, D, N, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("N", STATES)
@pytest.mark.parametrize("D", WIDTHS)
def test_selective_scan_equals_the_reference_at_all_widths(D: int, N: int, sharing: None) -> None:
    for dtype in DTYPES:
        compare_solved(selective_scan, 2, 3, D, N, dtype=dtype)


@pytest.mark.parametrize("softplus", [False, True], ids=["deltas", "softplus"])
@pytest.mark.parametrize("left_out", ["skip", "gate", "initial_state", "all three"])
def test_selective_scan_without_optional_arguments(left_out: str, softplus: bool, sharing: None) -> None:
    problem = selective_problem(2, 21, 4, 5, torch.float64)
    for name in ("skip", "gate", "initial_state") if left_out == "all three" else (left_out,):
        del problem[name]
    if softplus:
        problem["deltas"] = torch.tensor([-30.0, 0.0, 19.9, 20.1], dtype=torch.float64).expand(2, 21, 4)
    compare(selective_scan, problem, selective_cotangents(problem), delta_softplus=softplus)


def test_selective_scan_takes_strided_tensors(sharing: None) -> None:
    problem = selective_problem(3, 20, 4, 5, torch.float64)
    wide = torch.randn(3, 20, 30, dtype=torch.float64)
    problem["inputs"], problem["gate"] = (
        wide[..., 2:6],
        wide.flip(0).transpose(0, 1).contiguous().transpose(0, 1)[..., :4],
    )
    problem["drive"], problem["readout"] = wide[..., 7:12], wide[..., 12:22:2]
    problem["decay"] = -torch.rand(5, 4, dtype=torch.float64).t()
    problem["skip"] = torch.randn(8, dtype=torch.float64)[::2]
    compare(selective_scan, problem, selective_cotangents(problem))


@pytest.mark.parametrize("optional", [False, True], ids=["without", "with everything"])
def test_selective_scan_gradcheck(optional: bool, sharing: None) -> None:
    problem = selective_problem(2, 10, 3, 2, torch.float64, optional)
    names, leaves = list(problem), [tensor.requires_grad_() for tensor in problem.values()]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(**dict(zip(names, tensors, strict=True)), delta_softplus=True, backend="cuda")

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_selective_scan_of_nothing_keeps_the_state(shape: tuple[int, int, int], sharing: None) -> None:
    problem = selective_problem(*shape, 4, torch.float32)
    cotangents = selective_cotangents(problem)
    outputs, final, *gradients = differentiated(selective_scan, problem, cotangents, backend="cuda")
    assert outputs.shape == shape
    assert torch.equal(final, problem["initial_state"])
    assert torch.equal(gradients.pop(), cotangents[1])
    for gradient, tensor in zip(gradients, problem.values(), strict=False):
        assert gradient.shape == tensor.shape
        assert not gradient.any()


@pytest.mark.parametrize("N", [0, 257])
def test_selective_scan_without_states_or_with_more_than_a_warp_holds(N: int, sharing: None) -> None:
    problem = selective_problem(2, 3, 4, N, torch.float64)
    compare(selective_scan, problem, selective_cotangents(problem))


def test_gradients_of_selective_scan_need_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is as large as the states of all steps."""
    B, T, D, N = 4, 256, 32, 16
    largest, empty = 0, torch.empty

    def watch(*shape: Any, **options: Any) -> Tensor:
        nonlocal largest
        tensor = empty(*shape, **options)
        largest = max(largest, tensor.numel())
        return tensor

    problem = selective_problem(B, T, D, N, torch.float32)
    monkeypatch.setattr(torch, "empty", watch)
    with emulated():
        differentiated(selective_scan, problem, selective_cotangents(problem), backend="cuda")
    assert 0 < largest <= 2 * B * T * D < B * T * D * N
