"""Every backend of Mamba's scan against the plain loop in double precision: results and every gradient."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqbench.ops import selective_scan
from seqbench.ops.backends import BACKENDS
from seqbench.ops.cpu import binding
from seqbench.ops.cpu import selective_scan as cpu_scan
from seqbench.ops.functions.selective_scan import Arguments
from seqbench.ops.precision import HALF
from tests.conftest import Golden
from tests.ops.opskit import REGISTRATION, assert_close, assert_equals, coarse, differentiated, implementation

OPERATOR = "selective_scan"

FAST = [name for name in BACKENDS if name != "reference"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LENGTHS = (1, 2, 31, 63, 200, 1025)
# Half precision differs at the ends only.
LENGTHS_AND_DTYPES = [(T, dtype) for T in LENGTHS for dtype in DTYPES if T in (1, 63, 200) or dtype not in HALF]
Problem = tuple[dict[str, Tensor], list[Tensor]]


@pytest.fixture(params=["cpu", "torch"])
def native(request: pytest.FixtureRequest) -> Iterator[str]:
    """Those of them whose lengths and widths test_cuda_kernels.py does not go through."""
    with implementation(request.param, OPERATOR) as name:
        yield name


@pytest.fixture(params=FAST)
def fast(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation but the reference, to be compared with it."""
    with implementation(request.param, OPERATOR) as name:
        yield name


def problem(B: int, T: int, D: int, N: int, without: tuple[str, ...] = ()) -> Problem:
    """Arguments and cotangents of both results, the same for the same shape."""
    generator = torch.Generator().manual_seed(B + 10 * T + 100 * D + 1000 * N)
    shapes = {
        "inputs": (B, T, D),
        "deltas": (B, T, D),
        "decay": (D, N),
        "drive": (B, T, N),
        "readout": (B, T, N),
        "skip": (D,),
        "gate": (B, T, D),
        "initial_state": (B, D, N),
    }
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items() if name not in without}
    drawn["deltas"] = drawn["deltas"].abs()  # step sizes, with or without a softplus
    drawn["decay"] = -drawn["decay"].abs()
    cotangents = [torch.randn(shape, generator=generator) for shape in ((B, T, D), (B, D, N))]
    return {name: coarse(tensor) for name, tensor in drawn.items()}, [coarse(tensor) for tensor in cotangents]


def truth_of(tensors: dict[str, Tensor], cotangents: list[Tensor], softplus: bool) -> dict[str, Tensor]:
    return differentiated(selective_scan, tensors, cotangents, backend="reference", delta_softplus=softplus)


@cache
def long_truth(T: int) -> dict[str, Tensor]:
    return truth_of(*long_problem(T), softplus=True)


def long_problem(T: int) -> Problem:
    return problem(3 if T < 1000 else 1, T, 5, 3)


@pytest.mark.parametrize(
    ("T", "dtype"), [(T, dtype) for T in LENGTHS for dtype in DTYPES if T in (1, 63, 200) or dtype not in HALF], ids=str
)
def test_equals_the_reference_at_awkward_lengths(T: int, dtype: torch.dtype, native: str) -> None:
    assert_equals(long_truth(T), selective_scan, *long_problem(T), dtype, backend=native, delta_softplus=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("D", "N"), [(1, 1), (3, 17), (16, 16), (17, 7), (33, 5), (130, 3)])
def test_equals_the_reference_at_awkward_widths(D: int, N: int, dtype: torch.dtype, native: str) -> None:
    tensors, cotangents = problem(2, 9, D, N)
    truth = truth_of(tensors, cotangents, softplus=True)
    assert_equals(truth, selective_scan, tensors, cotangents, dtype, backend=native, delta_softplus=True)


@pytest.mark.parametrize("softplus", [False, True], ids=["deltas", "softplus"])
@pytest.mark.parametrize(
    "without",
    [(), ("skip",), ("gate",), ("initial_state",), ("skip", "gate", "initial_state")],
    ids=lambda names: "no " + " ".join(names) if names else "everything",
)
def test_any_argument_may_be_left_out(without: tuple[str, ...], softplus: bool, fast: str) -> None:
    tensors, cotangents = problem(2, 13, 5, 3, without)
    truth = truth_of(tensors, cotangents, softplus)
    for dtype in (torch.float64, torch.float32):
        assert_equals(truth, selective_scan, tensors, cotangents, dtype, backend=fast, delta_softplus=softplus)


def test_softplus_is_torchs_for_any_step_size(fast: str) -> None:
    tensors, cotangents = problem(1, 8, 2, 2)
    tensors["deltas"] = torch.tensor([-100.0, -20, -1, 0, 1, 19, 40, 100]).double().view(1, 8, 1).expand(1, 8, 2)
    truth = truth_of(tensors, cotangents, softplus=True)
    for dtype in (torch.float64, torch.float32):
        assert_equals(truth, selective_scan, tensors, cotangents, dtype, backend=fast, delta_softplus=True)


@pytest.mark.parametrize("name", ["cpu", "torch"])
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 20), st.integers(1, 9)),
    softplus=st.booleans(),
)
def test_equals_the_reference_for_any_shape(shape: tuple[int, int, int, int], softplus: bool, name: str) -> None:
    tensors, cotangents = problem(*shape)
    truth = truth_of(tensors, cotangents, softplus)
    with implementation(name, OPERATOR) as backend:
        found = differentiated(selective_scan, tensors, cotangents, backend=backend, delta_softplus=softplus)
    for key, expected in truth.items():
        torch.testing.assert_close(found[key], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 0, 2)], ids=str)
def test_nothing_in_nothing_out_and_the_state_is_kept(shape: tuple[int, int, int, int], fast: str) -> None:
    tensors, cotangents = problem(*shape)
    found = differentiated(selective_scan, tensors, cotangents, backend=fast)
    assert found["result 0"].shape == shape[:3]
    assert torch.equal(found["result 1"], tensors["initial_state"])
    for name, tensor in tensors.items():
        assert torch.equal(found[name], cotangents[1] if name == "initial_state" else torch.zeros_like(tensor))


@pytest.mark.parametrize("layout", ["slices", "time first", "channels first", "batch last", "every other", "broadcast"])
def test_takes_tensors_of_any_stride(layout: str, fast: str) -> None:
    B, T, D, N = 3, 20, 5, 4

    def cut(width: int) -> Tensor:
        return {
            "slices": lambda: torch.randn(B, T, 3 * width)[..., width : 2 * width],
            "time first": lambda: torch.randn(T, B, width).transpose(0, 1),
            "channels first": lambda: torch.randn(B, width, T).transpose(1, 2),
            "batch last": lambda: torch.randn(width, T, B).transpose(0, 2),
            "every other": lambda: torch.randn(B, 2 * T, 2 * width)[:, ::2, ::2],
            "broadcast": lambda: torch.randn(width).expand(B, T, width),
        }[layout]().double()

    inputs, deltas, gate, grad_outputs, drive, readout = cut(D), cut(D), cut(D), cut(D), cut(N), cut(N)
    decay, skip = -torch.rand(N, D).double().t(), torch.randn(2 * D).double()[::2]
    initial, grad_final = torch.randn(2, D, N, B).double().permute(0, 3, 1, 2)
    arguments = (inputs, deltas, decay, drive, readout, skip, gate, initial)
    module = BACKENDS[fast].load(OPERATOR)

    def run(*tensors: Tensor) -> list[Tensor]:
        *arguments, grad_outputs, grad_final = tensors
        return [
            *module.forward(Arguments(*arguments, True)),
            *module.backward(Arguments(*arguments, True), grad_outputs, grad_final),
        ]

    strided = run(*arguments, grad_outputs, grad_final)
    plain = run(*(tensor.contiguous() for tensor in (*arguments, grad_outputs, grad_final)))
    for one, other in zip(strided, plain, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("L", [1, 3, 17])
@pytest.mark.parametrize("name", BACKENDS)
def test_equals_the_official_scan(name: str, L: int, dtype: torch.dtype) -> None:
    golden = Golden("mamba_block")
    x, deltas, drive, readout, y, last = (
        golden[f"L{L}/mid/{key}"].to(dtype) for key in ("x_conv", "delta", "B", "C", "y_ssm", "last_state")
    )
    decay, skip = -torch.exp(golden["w/A_log"]).to(dtype), golden["w/D"].to(dtype)
    with implementation(name, OPERATOR) as backend:
        outputs, final = selective_scan(x, deltas, decay, drive, readout, skip, backend=backend)
    assert_close(outputs, y, dtype, "y_ssm")
    assert_close(final, last, dtype, "last_state")


@pytest.mark.parametrize("softplus", [False, True], ids=["deltas", "softplus"])
def test_gradcheck(softplus: bool, native: str) -> None:
    tensors, _ = problem(2, 7, 3, 2)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    assert torch.autograd.gradcheck(
        lambda *args: selective_scan(*args, delta_softplus=softplus, backend=native), leaves, fast_mode=True
    )


@pytest.mark.parametrize("without", [(), ("skip", "gate")], ids=["everything", "no skip gate"])
def test_operator_is_well_registered(without: tuple[str, ...], fast: str) -> None:
    tensors, _ = problem(2, 9, 3, 4, without)
    names = ("inputs", "deltas", "decay", "drive", "readout", "skip", "gate", "initial_state")
    arguments = (*(tensors[name].float().requires_grad_() if name in tensors else None for name in names), True, fast)
    checks = REGISTRATION if fast == "cpu" else REGISTRATION[:3]  # the last takes seconds
    torch.library.opcheck(torch.ops.seqbench.selective_scan.default, arguments, test_utils=checks)


def test_no_step_leaves_the_state_as_it_is(fast: str) -> None:
    nothing, initial = torch.zeros(2, 0, 3), torch.randn(4, 3, 2).transpose(0, 2)
    drive = torch.zeros(2, 0, 4)
    arguments = Arguments(nothing, nothing, torch.ones(3, 4), drive, drive, None, None, initial, False)
    module = BACKENDS[fast].load(OPERATOR)
    for state in (module.forward(arguments)[1], module.backward(arguments, nothing, initial)[7]):
        assert torch.equal(state, initial)
        assert state.is_contiguous()


def test_final_state_continues_a_sequence(fast: str) -> None:
    tensors, _ = problem(2, 50, 4, 3)
    whole, last = selective_scan(**tensors, backend=fast)
    constant = {name: tensors[name] for name in ("decay", "skip")}
    sequences = {name: tensors[name] for name in ("inputs", "deltas", "drive", "readout", "gate")}
    state, outputs = tensors["initial_state"], []
    for piece in (slice(0, 20), slice(20, 21), slice(21, 50)):
        cut = {name: tensor[:, piece] for name, tensor in sequences.items()}
        y, state = selective_scan(**cut, **constant, initial_state=state, backend=fast)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("pool", ["torch's threads", "threads of its own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 200, 200, 6), (5, 90, 70, 7), (70, 30, 17, 6)], ids=str)
def test_any_number_of_threads_gives_the_same_bits(
    shape: tuple[int, int, int, int], dtype: torch.dtype, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := BACKENDS["cpu"].unavailable(OPERATOR, "cpu"):
        pytest.skip(reason)
    if pool == "threads of its own":
        monkeypatch.setattr(binding, "_torch_threads", lambda: None)
    B, T, D, N = shape
    assert B * T * D * N >= 3 * 65536  # the kernel's least share of a thread
    tensors, cotangents = problem(*shape)
    scan = Arguments(*(tensor.to(dtype) for tensor in tensors.values()), True)
    runs = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results = cpu_scan.forward(scan)
        runs.append([*results, *cpu_scan.backward(scan, *(tensor.to(dtype) for tensor in cotangents))])
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert torch.equal(one, other)


def test_nan_stays_in_its_channel(fast: str) -> None:
    tensors, _ = problem(1, 6, 3, 2)
    tensors["inputs"][0, 2, 0] = torch.nan
    outputs, _ = selective_scan(**tensors, backend=fast)
    expected = torch.zeros(1, 6, 3, dtype=torch.bool)
    expected[0, 2:, 0] = True
    assert torch.equal(outputs.isnan(), expected)


def test_states_underflow_to_zero(fast: str) -> None:
    """A decay that leaves nothing: not a trace of the state before, and no NaN in the gradients."""
    tensors, cotangents = problem(1, 6, 3, 2)
    tensors["decay"] = torch.full_like(tensors["decay"], -1e4)
    tensors["deltas"] = tensors["deltas"] + 1
    truth = truth_of(tensors, cotangents, softplus=False)
    assert not truth["initial_state"].any()
    for dtype in (torch.float64, torch.float32):
        assert_equals(truth, selective_scan, tensors, cotangents, dtype, backend=fast)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"deltas": torch.rand(2, 5, 4)}, "deltas must be"),
        ({"readout": torch.rand(2, 5, 3, dtype=torch.float64)}, "readout is torch.float64"),
        ({"inputs": torch.rand(5, 4)}, "inputs must be"),
    ],
)
def test_refuses_what_does_not_fit(changed: dict[str, Tensor], message: str) -> None:
    tensors = {name: tensor.float() for name, tensor in problem(2, 5, 3, 3)[0].items()}
    with pytest.raises(ValueError, match=message):
        selective_scan(**tensors | changed)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=str)
def test_refuses_numbers_that_are_not_real(dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in problem(2, 5, 3, 3)[0].items()}
    with pytest.raises(ValueError, match="must be real floating-point numbers"):
        selective_scan(**tensors)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1000, 70, 3), (70, 7, 130, 2)], ids=str)
def test_the_kernel_stays_within_its_workspace(
    shape: tuple[int, int, int, int], dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := BACKENDS["cpu"].unavailable(OPERATOR, "cpu"):
        pytest.skip(reason)
    allocate, guarded = cpu_scan._workspace, []

    def workspace(*arguments: Any) -> Tensor:
        fence = torch.full((8,), 7.0, dtype=torch.float64)
        guarded.append(torch.cat([allocate(*arguments), fence]))
        return guarded[-1]

    monkeypatch.setattr(cpu_scan, "_workspace", workspace)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    tensors, cotangents = problem(*shape)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    differentiated(selective_scan, tensors, [cotangent.to(dtype) for cotangent in cotangents], backend="cpu")
    assert len(guarded) == 2
    assert all((memory[-8:] == 7).all() for memory in guarded)
