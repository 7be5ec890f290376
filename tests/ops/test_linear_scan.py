"""Every scan backend against the golden recurrences and the plain loop: states and every gradient."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqbench.ops import linear_scan
from seqbench.ops.backends import BACKENDS
from tests.conftest import Golden
from tests.ops.opskit import REGISTRATION, assert_close, coarse, implementation, rotating

OPERATOR = "linear_scan"

REAL, COMPLEX = Golden("scan_real"), Golden("scan_complex")
CASES = [(golden, case) for golden in (REAL, COMPLEX) for case in golden.config["cases"]]
# These backends count as two: either of their forms, forced. The CUDA kernels run on the CPU here.
FORMS = {"torch": ("sequential", "chunked"), "cuda": ("channels", "chunked")}
FAST = [
    f"{name}-{form}" if form else name for name in BACKENDS for form in FORMS.get(name, ("",)) if name != "reference"
]


@pytest.fixture(params=[*FAST, "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation."""
    with implementation(request.param, OPERATOR) as name:
        yield name


@pytest.fixture(params=FAST)
def fast(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation but the reference, to be compared with it."""
    with implementation(request.param, OPERATOR) as name:
        yield name


def named(cases: list[tuple[Golden, str]]) -> list[str]:
    """Names of cases that are the same in every process."""
    return [f"{golden.config['fixture']}-{case}" for golden, case in cases]


FROM_ZERO = [(golden, case) for golden, case in CASES if not case.startswith("lti")]


def narrow(dtype: torch.dtype) -> torch.dtype:
    return torch.complex64 if dtype.is_complex else torch.float32


def gradients(gates: Tensor, inputs: Tensor, initial: Tensor, cotangent: Tensor, backend: str) -> list[Tensor]:
    """States, then gradients of Re Σ conj(cotangent)·states."""
    leaves = [tensor.clone().requires_grad_() for tensor in (gates, inputs, initial)]
    states = linear_scan(*leaves, backend=backend)
    loss = (states * cotangent.conj()).sum()
    return [states.detach(), *torch.autograd.grad(loss.real if loss.is_complex() else loss, leaves)]


@pytest.mark.parametrize(("golden", "case"), CASES, ids=named(CASES))
def test_equals_the_golden_recurrence(golden: Golden, case: str, backend: str) -> None:
    names = ("a", "b", "h0", "c")
    wide = [golden[f"{case}/{name}"] for name in names]
    for dtype in (wide[1].dtype, narrow(wide[1].dtype)):
        if dtype != wide[1].dtype and case == "x_float64_subnormal":
            continue  # not representable in single precision
        results = gradients(*(tensor.to(dtype) for tensor in wide), backend)
        for name, result in zip(("h", "ga", "gb", "gh0"), results, strict=True):
            assert_close(result, golden[f"{case}/{name}"], dtype, f"{case}/{name}")


@pytest.mark.parametrize(("golden", "case"), FROM_ZERO, ids=named(FROM_ZERO))
def test_starts_from_zero_without_an_initial_state(golden: Golden, case: str, backend: str) -> None:
    states = linear_scan(golden[f"{case}/a"], golden[f"{case}/b"], backend=backend)
    assert_close(states, golden[f"{case}/h_zero_init"], states.dtype, case)


ALONG = [torch.float32, torch.complex64, torch.float64, torch.bfloat16]
ACROSS = [torch.float32, torch.complex64, torch.float64, torch.complex128]
LENGTHS = (1, 2, 7, 8, 31, 63, 200, 1025)
WIDTHS = (1, 3, 17, 63, 65, 130, 1500)


@pytest.mark.parametrize(("length", "constant", "dtype"), rotating(product(LENGTHS, (False, True)), ALONG), ids=str)
def test_equals_reference_at_awkward_lengths(length: int, constant: bool, dtype: torch.dtype, fast: str) -> None:
    compare_with_reference((3 if length < 1000 else 1, length, 5), constant, dtype, fast)


@pytest.mark.parametrize(("width", "constant", "dtype"), rotating(product(WIDTHS, (False, True)), ACROSS), ids=str)
def test_equals_reference_at_awkward_widths(width: int, constant: bool, dtype: torch.dtype, fast: str) -> None:
    compare_with_reference((2, 9, width), constant, dtype, fast)


def compare_with_reference(shape: tuple[int, int, int], constant: bool, dtype: torch.dtype, backend: str) -> None:
    tensors, expected = solved(shape, constant, dtype.is_complex)
    ours = gradients(*(tensor.to(dtype) for tensor in tensors), backend)
    for name, mine, true in zip(("h", "ga", "gb", "gh0"), ours, expected, strict=True):
        assert mine.dtype == dtype
        assert_close(mine, true, dtype, name)


@cache
def solved(shape: tuple[int, int, int], constant: bool, is_complex: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Gates, inputs, initial state and cotangent, and states and gradients of the reference, in double precision."""
    B, length, D = shape
    generator = torch.Generator().manual_seed(B + 10 * length + 100 * D)

    def drawn(*sizes: int, draw: Callable[..., Tensor] = torch.randn) -> Tensor:
        parts = coarse(draw(2, *sizes, generator=generator))
        return torch.complex(parts[0], parts[1]) if is_complex else parts[0]

    gates = drawn(*((D,) if constant else shape), draw=torch.rand) * (0.5 if is_complex else 1)
    tensors = [gates, drawn(*shape), drawn(B, D), drawn(*shape)]
    return tensors, gradients(*tensors, "reference")


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(0, 70), st.integers(1, 6)),
    constant=st.booleans(),
    data=st.data(),
)
def test_equals_reference_for_any_shape(
    shape: tuple[int, int, int], constant: bool, name: str, data: st.DataObject
) -> None:
    B, T, D = shape
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    draw = torch.float64
    gates = torch.randn((D,) if constant else shape, dtype=draw, generator=generator).clamp(-1, 1)
    inputs = torch.randn(shape, dtype=draw, generator=generator)
    initial = torch.randn((B, D), dtype=draw, generator=generator)
    cotangent = torch.randn(shape, dtype=draw, generator=generator)
    with implementation(name, OPERATOR) as backend:
        ours = gradients(gates, inputs, initial, cotangent, backend)
    if T == 0:
        assert ours[0].shape == shape
        assert not ours[1].any()
        return
    for mine, true in zip(ours, gradients(gates, inputs, initial, cotangent, "reference"), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize(
    "layout", ["time first", "channels first", "batch last", "every other", "broadcast", "conjugate"]
)
def test_takes_tensors_of_any_stride(layout: str, dtype: torch.dtype, fast: str) -> None:
    B, T, D = 3, 40, 5
    cut = {
        "time first": lambda: torch.randn(T, B, D, dtype=dtype).transpose(0, 1),
        "channels first": lambda: torch.randn(B, D, T, dtype=dtype).transpose(1, 2),
        "batch last": lambda: torch.randn(D, T, B, dtype=dtype).transpose(0, 2),
        "every other": lambda: torch.randn(B, 2 * T, 2 * D, dtype=dtype)[:, ::2, ::2],
        "broadcast": lambda: torch.randn(D, dtype=dtype).expand(B, T, D),
        "conjugate": lambda: torch.randn(B, T, D, dtype=dtype).conj(),
    }[layout]
    gates, inputs, cotangent = cut(), cut(), cut()
    initial = torch.randn(D, B, dtype=dtype).t()
    module = BACKENDS[fast].load(OPERATOR)
    states = module.forward(gates, inputs, initial, None)
    results = [states, *module.backward(gates, states, initial, None, cotangent)]
    gates, inputs, cotangent, initial = (x.resolve_conj().contiguous() for x in (gates, inputs, cotangent, initial))
    states = module.forward(gates, inputs, initial, None)
    exact = {} if fast == "torch" else {"rtol": 0, "atol": 0}  # torch's own loops round by layout
    for strided, plain in zip(
        results, [states, *module.backward(gates, states, initial, None, cotangent)], strict=True
    ):
        assert strided.is_contiguous()
        torch.testing.assert_close(strided, plain, **exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
def test_padding_is_neither_read_nor_computed(constant: bool, dtype: torch.dtype, backend: str) -> None:
    B, T, D = 4, 30, 5
    lengths = torch.tensor([30, 7, 1, 0])
    gates = torch.rand((D,) if constant else (B, T, D)).to(dtype)
    inputs, cotangent = torch.randn(2, B, T, D, dtype=dtype)
    initial = torch.randn(B, D, dtype=dtype)
    for b, length in enumerate(lengths):
        for tensor in (inputs, cotangent) if constant else (gates, inputs, cotangent):
            tensor[b, length:] = torch.nan
    leaves = [tensor.clone().requires_grad_() for tensor in (gates, inputs, initial)]
    states = linear_scan(*leaves, lengths=lengths, backend=backend)
    found = [states, *torch.autograd.grad(states, leaves, cotangent)]
    summed = torch.zeros(D, dtype=dtype)
    for b, length in enumerate(lengths):
        row = slice(b, b + 1), slice(0, length)
        gate = gates if constant else gates[row]
        assert not found[0][b, length:].any()
        assert not found[2][b, length:].any()
        if length == 0:
            assert not found[3][b].any()
            continue
        alone = gradients(gate, inputs[row], initial[b : b + 1], cotangent[row], "reference")
        for mine, true in zip((found[0][row], found[2][row], found[3][b : b + 1]), (alone[0], *alone[2:]), strict=True):
            torch.testing.assert_close(mine, true)
        if constant:
            summed += alone[1]
        else:
            torch.testing.assert_close(found[1][row], alone[1])
            assert not found[1][b, length:].any()
    if constant:
        torch.testing.assert_close(found[1], summed)


@pytest.mark.parametrize("complex_valued", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
def test_gradcheck(constant: bool, complex_valued: bool, fast: str) -> None:
    dtype = torch.complex128 if complex_valued else torch.float64
    gates = torch.randn((3,) if constant else (2, 11, 3), dtype=dtype, requires_grad=True)
    inputs = torch.randn(2, 11, 3, dtype=dtype, requires_grad=True)
    initial = torch.randn(2, 3, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *args: linear_scan(*args, backend=fast), (gates, inputs, initial), fast_mode=True
    )


def test_operator_is_well_registered(fast: str) -> None:
    arguments = (
        torch.rand(2, 9, 3, requires_grad=True),
        torch.randn(2, 9, 3),
        torch.zeros(2, 3),
        torch.tensor([9, 4]),
        fast,
    )
    checks = REGISTRATION if fast == "cpu" else REGISTRATION[:3]  # the last takes seconds
    torch.library.opcheck(torch.ops.seqbench.linear_scan.default, arguments, test_utils=checks)


def test_subnormal_and_non_finite_values_mean_what_they_mean(fast: str) -> None:
    tiny = torch.finfo(torch.float32).smallest_normal / 4
    gates = torch.tensor([1.0, 0.5, 0.0, torch.inf, torch.nan]).expand(1, 3, 5)
    inputs = torch.tensor([[[tiny] * 5, [0.0] * 5, [-0.0] * 5]])
    states = linear_scan(gates, inputs, backend=fast)
    expected = linear_scan(gates, inputs, backend="reference")
    assert torch.equal(states.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert states[0, 1, 1] == tiny / 2  # not flushed to zero
    assert states[0, 1, 2] == 0


def test_products_of_gates_may_overflow_where_states_do_not(backend: str) -> None:
    gates = torch.full((1, 64, 3), 1e10)
    gates[..., 1] = torch.tensor([1e10, 0.0]).repeat_interleave(32)
    inputs, cotangent = torch.zeros(2, 1, 64, 3)
    inputs[0, 63] = cotangent[0, 0] = 1  # nothing comes before the last step, or back from later than the first
    found, expected = (gradients(gates, inputs, torch.zeros(1, 3), cotangent, name) for name in (backend, "reference"))
    for mine, true in zip(found, expected, strict=True):
        assert true.isfinite().all()
        assert torch.equal(mine, true)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_as_torch_rounds(dtype: torch.dtype, fast: str) -> None:
    """Over all exponents, subnormal and overflowing ones too; products of two are exact in float32."""
    exponents = torch.randint(-18, 10, (3, 1, 1, 4000)) if dtype == torch.float16 else 0
    gates, inputs, initial = (torch.randn(3, 1, 1, 4000) * 2.0**exponents).to(dtype)
    inputs[..., :3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    states = linear_scan(gates, inputs, initial[:, 0], backend=fast)
    expected = (gates.float() * initial.float() + inputs.float()).to(dtype)
    torch.testing.assert_close(states, expected, rtol=0, atol=0, equal_nan=True)


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
