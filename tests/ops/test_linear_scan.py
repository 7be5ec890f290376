"""Every scan backend against the golden recurrences and the plain loop: states and every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqbench.errors import UsageError
from seqbench.ops import torch_scan
from seqbench.ops.backends import BACKENDS, resolve
from seqbench.ops.linear_scan import linear_scan
from tests.conftest import Golden

# Largest deviation, relative to the largest value of the compared tensor.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.complex128: 1e-12,
    torch.float32: 2e-6,
    torch.complex64: 2e-6,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-3,
}
REAL, COMPLEX = Golden("scan_real"), Golden("scan_complex")
CASES = [(golden, case) for golden in (REAL, COMPLEX) for case in golden.config["cases"]]
LENGTHS = (1, 2, 7, 8, 31, 63, 200, 1000, 1024)


@pytest.fixture(params=["sequential", "chunked"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force either form of the torch backend."""
    monkeypatch.setitem(torch_scan.SEQUENTIAL_FROM, "cpu", 0 if request.param == "sequential" else 1 << 40)
    return request.param


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    expected = expected.to(torch.complex128 if expected.is_complex() else torch.float64)
    error = (actual.to(expected.dtype) - expected).abs().max().item() if expected.numel() else 0.0
    scale = max(expected.abs().max().item(), torch.finfo(dtype).tiny) if expected.numel() else 1.0
    assert error <= TOLERANCE[dtype] * scale, f"{what}: error {error:.2e} of {scale:.2e} in {dtype}"


def narrow(dtype: torch.dtype) -> torch.dtype:
    return torch.complex64 if dtype.is_complex else torch.float32


def gradients(gates: Tensor, inputs: Tensor, initial: Tensor, cotangent: Tensor, backend: str) -> list[Tensor]:
    """States, then gradients of Re Σ conj(cotangent)·states."""
    leaves = [tensor.clone().requires_grad_() for tensor in (gates, inputs, initial)]
    states = linear_scan(*leaves, backend=backend)
    loss = (states * cotangent.conj()).sum()
    return [states.detach(), *torch.autograd.grad(loss.real if loss.is_complex() else loss, leaves)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("golden", "case"), CASES, ids=[f"{g.config['fixture']}-{case}" for g, case in CASES])
def test_equals_the_golden_recurrence(golden: Golden, case: str, backend: str, form: str) -> None:
    names = ("a", "b", "h0", "c")
    wide = [golden[f"{case}/{name}"] for name in names]
    for dtype in (wide[1].dtype, narrow(wide[1].dtype)):
        if dtype != wide[1].dtype and case == "x_float64_subnormal":
            continue  # not representable in single precision
        results = gradients(*(tensor.to(dtype) for tensor in wide), backend)
        for name, result in zip(("h", "ga", "gb", "gh0"), results, strict=True):
            assert_close(result, golden[f"{case}/{name}"], dtype, f"{case}/{name}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("golden", "case"), [c for c in CASES if not c[1].startswith("lti")], ids=str)
def test_starts_from_zero_without_an_initial_state(golden: Golden, case: str, backend: str) -> None:
    states = linear_scan(golden[f"{case}/a"], golden[f"{case}/b"], backend=backend)
    assert_close(states, golden[f"{case}/h_zero_init"], states.dtype, case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
@pytest.mark.parametrize("length", LENGTHS)
def test_torch_equals_reference_at_awkward_lengths(length: int, constant: bool, dtype: torch.dtype, form: str) -> None:
    B, D = 3, 5
    shape = (D,) if constant else (B, length, D)
    gates = torch.rand(shape, dtype=torch.float32).to(dtype)
    inputs, cotangent = torch.randn(2, B, length, D).to(dtype)
    initial = torch.randn(B, D).to(dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    truth = gradients(*(tensor.to(wide) for tensor in (gates, inputs, initial, cotangent)), "reference")
    ours = gradients(gates, inputs, initial, cotangent, "torch")
    for name, mine, true in zip(("h", "ga", "gb", "gh0"), ours, truth, strict=True):
        assert mine.dtype == dtype
        assert_close(mine, true, dtype, name)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(0, 70), st.integers(1, 6)),
    constant=st.booleans(),
    threshold=st.sampled_from([0, 1 << 40]),
    data=st.data(),
)
def test_torch_equals_reference_for_any_shape(
    shape: tuple[int, int, int], constant: bool, threshold: int, data: st.DataObject
) -> None:
    B, T, D = shape
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    draw = torch.float64
    gates = torch.randn((D,) if constant else shape, dtype=draw, generator=generator).clamp(-1, 1)
    inputs = torch.randn(shape, dtype=draw, generator=generator)
    initial = torch.randn((B, D), dtype=draw, generator=generator)
    cotangent = torch.randn(shape, dtype=draw, generator=generator)
    before = torch_scan.SEQUENTIAL_FROM["cpu"]
    torch_scan.SEQUENTIAL_FROM["cpu"] = threshold
    try:
        ours = gradients(gates, inputs, initial, cotangent, "torch")
    finally:
        torch_scan.SEQUENTIAL_FROM["cpu"] = before
    if T == 0:
        assert ours[0].shape == shape
        assert not ours[1].any()
        return
    for mine, true in zip(ours, gradients(gates, inputs, initial, cotangent, "reference"), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-12)


def test_takes_inputs_of_any_stride(form: str) -> None:
    gates, inputs = torch.rand(2, 7, 40, 3).transpose(2, 3).flip(0).unbind(0)
    gates, inputs = gates.transpose(1, 2), inputs.transpose(1, 2)
    contiguous = linear_scan(gates.contiguous(), inputs.contiguous(), backend="torch")
    assert torch.equal(linear_scan(gates, inputs, backend="torch"), contiguous)


@pytest.mark.parametrize("complex_valued", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
def test_gradcheck(constant: bool, complex_valued: bool, form: str) -> None:
    dtype = torch.complex128 if complex_valued else torch.float64
    gates = torch.randn((3,) if constant else (2, 11, 3), dtype=dtype, requires_grad=True)
    inputs = torch.randn(2, 11, 3, dtype=dtype, requires_grad=True)
    initial = torch.randn(2, 3, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *args: linear_scan(*args, backend="torch"), (gates, inputs, initial))


def test_operator_is_well_registered() -> None:
    arguments = (torch.rand(2, 9, 3, requires_grad=True), torch.randn(2, 9, 3), torch.zeros(2, 3), "torch")
    # aot_dispatch needs torch.compile's tool chain; the other checks cover schema, fake tensors and autograd.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.seqbench.linear_scan.default, arguments, test_utils=checks)


def test_final_state_continues_a_sequence() -> None:
    gates, inputs = torch.rand(2, 3, 50, 4, dtype=torch.float64).unbind(0)
    whole = linear_scan(gates, inputs)
    first = linear_scan(gates[:, :20], inputs[:, :20])
    second = linear_scan(gates[:, 20:], inputs[:, 20:], first[:, -1])
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize(
    ("gates", "initial", "message"),
    [
        (torch.rand(2, 5, 4), None, "gates must be"),
        (torch.rand(3), torch.zeros(1, 3), "initial_state must be"),
        (torch.rand(3, dtype=torch.float64), None, "gates is torch.float64"),
    ],
)
def test_refuses_what_does_not_fit(gates: Tensor, initial: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_scan(gates, torch.rand(2, 5, 3), initial)


def test_an_unknown_backend_is_named_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean torch"):
        resolve("torhc", "cpu")


def test_the_environment_variable_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQBENCH_SCAN_BACKEND", "reference")
    assert resolve("auto", "cpu").name == "reference"
    assert resolve("torch", "cpu").name == "torch"
