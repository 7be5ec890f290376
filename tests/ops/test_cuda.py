"""The CUDA backend on a GPU: results, gradients, registration, graphs, streams and devices.

What the kernels compute is tested more closely where there is no GPU, in test_linear_scan.py and test_cuda_kernels.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench.ops import linear_scan, rg_lru, selective_scan
from seqbench.ops.backends import BACKENDS, resolve
from tests.ops.opskit import assert_close
from tests.ops.test_cuda_cross_entropy import differentiated as cross_entropy_differentiated
from tests.ops.test_cuda_cross_entropy import problem as cross_entropy_problem
from tests.ops.test_cuda_kernels import compare, differentiated, rg_lru_problem, selective_problem
from tests.ptx.gpu import force

DEVICE = "cuda"
OPERATORS: dict[str, Callable[..., Any]] = {
    "linear_scan": linear_scan,
    "rg_lru": rg_lru,
    "selective_scan": selective_scan,
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
COMPLEX = [torch.complex64, torch.complex128]
FORMS = [
    *((name, form) for name in ("linear_scan", "rg_lru") for form in ("channels", "chunked")),
    *(("selective_scan", form) for form in ("channels", "channels, shared", "chunked", "chunked, shared")),
]
CASES = [
    (name, form, dtype) for name, form in FORMS for dtype in (*DTYPES, *(COMPLEX if name == "linear_scan" else ()))
]


@pytest.fixture(autouse=True)
def _on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    for name in OPERATORS:
        if reason := BACKENDS["cuda"].unavailable(name, "cuda"):
            pytest.skip(reason)


def problem(name: str, B: int, T: int, D: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Arguments of an operator, and cotangents of its results; on the CPU."""
    cotangents = [torch.randn(B, T, D).to(dtype)]
    if name == "rg_lru":
        return rg_lru_problem(B, T, D, dtype), cotangents
    if name == "selective_scan":
        return selective_problem(B, T, D, 20, dtype), [*cotangents, torch.randn(B, D, 20).to(dtype)]
    tensors = {
        "gates": torch.rand(B, T, D).to(dtype),
        "inputs": torch.randn(B, T, D).to(dtype),
        "initial_state": torch.randn(B, D).to(dtype),
    }
    return tensors, cotangents


def on_the_device(name: str, B: int, T: int, D: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    tensors, cotangents = problem(name, B, T, D, torch.float64)
    return {key: tensor.to(DEVICE) for key, tensor in tensors.items()}, [tensor.to(DEVICE) for tensor in cotangents]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("N", "V", "D"), [(3, 31, 8), (300, 5000, 64), (5, 100_000, 64)])
def test_cross_entropy_equals_the_reference(N: int, V: int, D: int, dtype: torch.dtype) -> None:
    tensors, targets = cross_entropy_problem(N, V, D, dtype)
    truth = cross_entropy_differentiated({k: t.double() for k, t in tensors.items()}, targets, "reference")
    on_gpu = {name: tensor.to(DEVICE) for name, tensor in tensors.items()}
    ours = cross_entropy_differentiated(on_gpu, targets.to(DEVICE), "cuda")
    for name, true in truth.items():
        assert_close(ours[name].cpu(), true, dtype, name, factor=4)  # products of many terms that cancel


def test_cross_entropy_can_be_captured_in_a_graph() -> None:
    tensors, targets = cross_entropy_problem(300, 5000, 64, torch.float32)
    tensors, targets = {name: tensor.to(DEVICE) for name, tensor in tensors.items()}, targets.to(DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        cross_entropy_differentiated(tensors, targets, "cuda")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = cross_entropy_differentiated(tensors, targets, "cuda")
    tensors["states"].mul_(0.5)
    graph.replay()
    for name, true in cross_entropy_differentiated(tensors, targets, "cuda").items():
        assert torch.equal(captured[name], true), name


def test_it_is_what_auto_means() -> None:
    assert resolve("linear_scan", "auto", "cuda").name == "cuda"


@pytest.mark.parametrize(("B", "T", "D"), [(3, 200, 65), (1, 4097, 5)])
@pytest.mark.parametrize(("name", "form", "dtype"), CASES, ids=str)
def test_equals_the_reference(
    name: str, form: str, dtype: torch.dtype, B: int, T: int, D: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(form, monkeypatch)
    compare(OPERATORS[name], *problem(name, B, T, D, dtype), device=DEVICE)


@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
@pytest.mark.parametrize("form", ["channels", "chunked"])
def test_padding_is_neither_read_nor_computed(form: str, constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    force(form, monkeypatch)
    tensors, cotangents = on_the_device("linear_scan", 4, 70, 33)
    if constant:
        tensors["gates"] = tensors["gates"][0, 0]
    lengths = torch.tensor([70, 0, 1, 33], device=DEVICE)
    truth = differentiated(linear_scan, tensors, cotangents, lengths=lengths, backend="reference")
    padding = torch.arange(70, device=DEVICE) >= lengths.unsqueeze(1)
    for tensor in (tensors["inputs"], cotangents[0]):
        tensor[padding] = torch.nan
    ours = differentiated(linear_scan, tensors, [cotangents[0]], lengths=lengths, backend="cuda")
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true)


@pytest.mark.parametrize(("name", "form"), FORMS, ids=str)
def test_gradcheck(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(form, monkeypatch)
    tensors, _ = on_the_device(name, 2, 9, 3)
    names, leaves = list(tensors), [tensor.requires_grad_() for tensor in tensors.values()]

    def function(*values: Tensor) -> Any:
        return OPERATORS[name](**dict(zip(names, values, strict=True)), backend="cuda")

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_well_registered(name: str) -> None:
    tensors, _ = on_the_device(name, 2, 9, 3)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    between = {"linear_scan": [None], "rg_lru": [], "selective_scan": [False]}[name]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    operator = getattr(torch.ops.seqbench, name).default
    torch.library.opcheck(operator, (*leaves, *between, "cuda"), test_utils=checks)


@pytest.mark.parametrize(("name", "form"), FORMS, ids=str)
def test_results_have_the_same_bits_every_time(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(form, monkeypatch)
    tensors, cotangents = on_the_device(name, 40, 200, 130)
    if name == "linear_scan":
        tensors["gates"] = tensors["gates"][0, 0].contiguous()
    first, second = (differentiated(OPERATORS[name], tensors, cotangents, backend="cuda") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "form"), FORMS, ids=str)
def test_can_be_captured_in_a_graph(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(form, monkeypatch)
    tensors, cotangents = on_the_device(name, 3, 70, 33)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        differentiated(OPERATORS[name], tensors, cotangents, backend="cuda")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = differentiated(OPERATORS[name], tensors, cotangents, backend="cuda")
    for tensor in tensors.values():
        tensor.mul_(0.5)
    graph.replay()
    for mine, true in zip(captured, differentiated(OPERATORS[name], tensors, cotangents, backend="cuda"), strict=True):
        assert torch.equal(mine, true)


@pytest.mark.parametrize(("name", "form"), FORMS, ids=str)
def test_runs_in_the_order_of_the_current_stream(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(form, monkeypatch)
    tensors, cotangents = on_the_device(name, 3, 70, 33)
    truth = differentiated(OPERATORS[name], tensors, cotangents, backend="cuda")
    late = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # a kernel on any other stream would see zeros
        for key, tensor in late.items():
            tensor.copy_(tensors[key])
        ours = differentiated(OPERATORS[name], late, cotangents, backend="cuda")
    torch.cuda.synchronize()
    for mine, true in zip(ours, truth, strict=True):
        assert torch.equal(mine, true)


@pytest.mark.parametrize("name", OPERATORS)
def test_runs_on_the_gpu_of_its_tensors(name: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    tensors, cotangents = problem(name, 3, 70, 33, torch.float64)
    for index in (1, 0):
        compare(OPERATORS[name], tensors, cotangents, device=f"cuda:{index}")
        assert torch.cuda.current_device() == 0
