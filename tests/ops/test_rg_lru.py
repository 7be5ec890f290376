"""Every backend of RecBLR's recurrence against the plain loop in double precision: states and every gradient."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqbench.ops import rg_lru
from seqbench.ops.backends import BACKENDS
from seqbench.ops.cpu import binding
from seqbench.ops.cpu import rg_lru as cpu_rg_lru
from seqbench.ops.precision import HALF
from tests.ops.opskit import REGISTRATION, assert_equals, coarse, differentiated, implementation

OPERATOR = "rg_lru"

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


def problem(B: int, T: int, D: int) -> Problem:
    """Arguments and cotangent, the same for the same shape."""
    generator = torch.Generator().manual_seed(B + 10 * T + 100 * D)
    shapes = {"inputs": (B, T, D), "gates": (B, T, 2 * D), "decay": (D,), "initial_state": (B, D)}
    drawn = {name: coarse(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    drawn["gates"] *= 2
    return drawn, [coarse(torch.randn((B, T, D), generator=generator))]


def truth_of(tensors: dict[str, Tensor], cotangents: list[Tensor]) -> dict[str, Tensor]:
    return differentiated(rg_lru, tensors, cotangents, backend="reference")


@pytest.mark.parametrize("name", BACKENDS)
def test_the_drive_is_exact_where_a_state_hardly_fades(name: str) -> None:
    decays = torch.linspace(-25, 5, 61, dtype=torch.float64)
    with implementation(name, OPERATOR) as backend:
        gates = torch.zeros(1, 1, 2 * len(decays), dtype=torch.float64)  # both sigmoids are 1/2
        states = rg_lru(torch.ones(1, 1, len(decays), dtype=torch.float64), gates, decays, backend=backend)
    rate = -np.log1p(np.exp(decays.numpy().astype(np.longdouble)))  # twice that of half a gate
    expected = np.sqrt(np.longdouble("1e-8") - np.expm1(rate)) / 2
    np.testing.assert_allclose(states[0, 0].numpy(), expected.astype(np.float64), rtol=1e-14)


@cache
def long_truth(T: int) -> dict[str, Tensor]:
    return truth_of(*long_problem(T))


def long_problem(T: int) -> Problem:
    return problem(3 if T < 1000 else 1, T, 5)


@pytest.mark.parametrize(
    ("T", "dtype"), [(T, dtype) for T in LENGTHS for dtype in DTYPES if T in (1, 63, 200) or dtype not in HALF], ids=str
)
def test_equals_the_reference_at_awkward_lengths(T: int, dtype: torch.dtype, native: str) -> None:
    assert_equals(long_truth(T), rg_lru, *long_problem(T), dtype, backend=native)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("D", [1, 3, 17, 63, 65, 130, 1500])
def test_equals_the_reference_at_awkward_widths(D: int, dtype: torch.dtype, native: str) -> None:
    tensors, cotangents = problem(2, 9, D)
    assert_equals(truth_of(tensors, cotangents), rg_lru, tensors, cotangents, dtype, backend=native)


@pytest.mark.parametrize("name", ["cpu", "torch"])
@settings(max_examples=15, deadline=None)
@given(shape=st.tuples(st.integers(0, 4), st.integers(1, 70), st.integers(1, 40)))
def test_equals_the_reference_for_any_shape(shape: tuple[int, int, int], name: str) -> None:
    tensors, cotangents = problem(*shape)
    truth = truth_of(tensors, cotangents)
    with implementation(name, OPERATOR) as backend:
        found = differentiated(rg_lru, tensors, cotangents, backend=backend)
    for key, expected in truth.items():
        torch.testing.assert_close(found[key], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gates_that_are_all_but_open_or_closed(dtype: torch.dtype, fast: str) -> None:
    """Decays within 1e-9 of one, decays that leave nothing, and gates that let nothing in."""
    tensors, cotangents = problem(2, 40, 6)
    tensors["decay"] = torch.tensor([-30.0, -20.0, -5.0, 0.0, 21.0, 100.0], dtype=torch.float64)
    tensors["gates"][:, ::3] = 30
    tensors["gates"][:, 1::3] = -30
    truth = truth_of(tensors, cotangents)
    found = differentiated(
        rg_lru, {k: v.to(dtype) for k, v in tensors.items()}, [cotangents[0].to(dtype)], backend=fast
    )
    # The reference loses digits of 1 - α² where α is close to one, double precision or not.
    close = {"rtol": 1e-7, "atol": 1e-7} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 2e-6}
    for key, expected in truth.items():
        scale = expected.abs().max()
        torch.testing.assert_close(found[key].double() / scale, expected / scale, **close)


def test_a_decay_next_to_one_keeps_the_digits_of_its_root(fast: str) -> None:
    """β = √(1 - α² + 1e-8) with 1 - α of 1e-6: its float32 value has errors of float32, not of the difference."""
    decay, gates = torch.full((4,), -13.8), torch.zeros(1, 1, 8)
    states = rg_lru(torch.ones(1, 1, 4), gates, decay, backend=fast)
    expected = rg_lru(torch.ones(1, 1, 4).double(), gates.double(), decay.double(), backend="reference")
    torch.testing.assert_close(states.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)], ids=str)
def test_nothing_in_nothing_out(shape: tuple[int, int, int], fast: str) -> None:
    tensors, cotangents = problem(*shape)
    found = differentiated(rg_lru, tensors, cotangents, backend=fast)
    assert found["result 0"].shape == shape
    for name, tensor in tensors.items():
        assert torch.equal(found[name], torch.zeros_like(tensor))


@pytest.mark.parametrize("layout", ["slices", "time first", "channels first", "batch last", "every other", "broadcast"])
def test_takes_tensors_of_any_stride(layout: str, fast: str) -> None:
    B, T, D = 3, 20, 5

    def cut(width: int) -> Tensor:
        return {
            "slices": lambda: torch.randn(B, T, 3 * width)[..., width : 2 * width],
            "time first": lambda: torch.randn(T, B, width).transpose(0, 1),
            "channels first": lambda: torch.randn(B, width, T).transpose(1, 2),
            "batch last": lambda: torch.randn(width, T, B).transpose(0, 2),
            "every other": lambda: torch.randn(B, 2 * T, 2 * width)[:, ::2, ::2],
            "broadcast": lambda: torch.randn(width).expand(B, T, width),
        }[layout]().double()

    arguments = (cut(D), cut(2 * D), torch.randn(2 * D).double()[::2], torch.randn(D, B).double().t())
    states, cotangent = cut(D), cut(D)  # any states do: both runs are given the same
    module = BACKENDS[fast].load(OPERATOR)
    strided = [module.forward(*arguments), *module.backward(*arguments, states, cotangent)]
    arguments = tuple(tensor.contiguous() for tensor in arguments)
    plain = [
        module.forward(*arguments),
        *module.backward(*arguments, states.contiguous(), cotangent.contiguous()),
    ]
    for one, other in zip(strided, plain, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other)


def test_gradcheck(native: str) -> None:
    tensors, _ = problem(2, 11, 3)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    assert torch.autograd.gradcheck(lambda *args: rg_lru(*args, backend=native), leaves, fast_mode=True)


def test_operator_is_well_registered(fast: str) -> None:
    arguments = (*(tensor.float().requires_grad_() for tensor in problem(2, 9, 3)[0].values()), fast)
    checks = REGISTRATION if fast == "cpu" else REGISTRATION[:3]  # the last takes seconds
    torch.library.opcheck(torch.ops.seqbench.rg_lru.default, arguments, test_utils=checks)


def test_final_state_continues_a_sequence(fast: str) -> None:
    tensors, _ = problem(2, 50, 4)
    inputs, gates, decay, initial = tensors.values()
    whole = rg_lru(inputs, gates, decay, initial, backend=fast)
    first = rg_lru(inputs[:, :20], gates[:, :20], decay, initial, backend=fast)
    second = rg_lru(inputs[:, 20:], gates[:, 20:], decay, first[:, -1], backend=fast)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize("pool", ["torch's threads", "threads of its own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1600, 130), (7, 900, 33), (40, 300, 17)], ids=str)
def test_any_number_of_threads_gives_the_same_bits(
    shape: tuple[int, int, int], dtype: torch.dtype, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := BACKENDS["cpu"].unavailable(OPERATOR, "cpu"):
        pytest.skip(reason)
    if pool == "threads of its own":
        monkeypatch.setattr(binding, "_torch_threads", lambda: None)
    tensors, [cotangent] = problem(*shape)
    arguments = [tensor.to(dtype) for tensor in tensors.values()]
    assert arguments[0].numel() >= 3 * 65536  # the kernel's least share of a thread
    runs = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        states = cpu_rg_lru.forward(*arguments)
        runs.append([states, *cpu_rg_lru.backward(*arguments, states, cotangent.to(dtype))])
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gates": torch.rand(2, 5, 3)}, "gates must be"),
        ({"decay": torch.rand(3, dtype=torch.float64)}, "decay is torch.float64"),
        ({"inputs": torch.rand(5, 3)}, "inputs must be"),
    ],
)
def test_refuses_what_does_not_fit(changed: dict[str, Tensor], message: str) -> None:
    tensors = {name: tensor.float() for name, tensor in problem(2, 5, 3)[0].items()}
    with pytest.raises(ValueError, match=message):
        rg_lru(**tensors | changed)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=str)
def test_refuses_numbers_that_are_not_real(dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in problem(2, 5, 3)[0].items()}
    with pytest.raises(ValueError, match="must be real floating-point numbers"):
        rg_lru(**tensors)
