"""Every backend of the recurrence of matrix states against a plain loop in double precision, and that against sums."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqbench.ops import matrix_scan
from seqbench.ops.backends import BACKENDS
from seqbench.ops.cpu import binding
from seqbench.ops.cpu import matrix_scan as cpu_scan
from seqbench.ops.functions.matrix_scan import Arguments
from seqbench.ops.parallel import parallel_scans
from seqbench.ops.precision import HALF
from tests.ops.opskit import REGISTRATION, assert_equals, coarse, differentiated, implementation

OPERATOR = "matrix_scan"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LENGTHS = (1, 2, 16, 63, 65, 300)
Problem = tuple[dict[str, Tensor], list[Tensor]]


@pytest.fixture(params=["cpu", "torch"])
def fast(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation but the reference, to be compared with it."""
    with implementation(request.param, OPERATOR) as name:
        yield name


def problem(B: int, T: int, H: int, K: int, V: int, fade: float = 0.5) -> Problem:
    """Arguments and cotangents of both results, the same for the same shape."""
    generator = torch.Generator().manual_seed(B + 10 * T + 100 * H + 1000 * K + 10000 * V)
    shapes = {
        "query": (B, T, H, K),
        "key": (B, T, H, K),
        "value": (B, T, H, V),
        "log_decay": (B, T, H),
        "initial_state": (B, H, K, V),
    }
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    drawn["log_decay"] = -fade * drawn["log_decay"].abs()
    cotangents = [torch.randn(shape, generator=generator) for shape in ((B, T, H, V), (B, H, K, V))]
    return {name: coarse(tensor) for name, tensor in drawn.items()}, [coarse(tensor) for tensor in cotangents]


def truth_of(tensors: dict[str, Tensor], cotangents: list[Tensor]) -> dict[str, Tensor]:
    return differentiated(matrix_scan, tensors, cotangents, backend="reference")


@cache
def long_truth(T: int) -> dict[str, Tensor]:
    return truth_of(*problem(2, T, 3, 5, 4))


def sums(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """o[t] = Σ_{j ≤ t} exp(g[j+1] + … + g[t]) (q[t]·k[j]) v[j], with the weights of all pairs written down."""
    T = query.shape[1]
    faded = torch.zeros(*log_decay.shape[::2], T + 1, T, dtype=log_decay.dtype)  # (B, H, from, to); from 0: the start
    for j in range(T + 1):
        for t in range(max(j - 1, 0), T):
            faded[:, :, j, t] = log_decay[:, j : t + 1].sum(dim=1).exp()
    seen = torch.ones(T, T).tril().to(query)
    weights = torch.einsum("bthk,bjhk,bhjt,tj->bhtj", query, key, faded[:, :, 1:], seen)
    outputs = torch.einsum("bhtj,bjhv->bthv", weights, value)
    outputs = outputs + torch.einsum("bthk,bht,bhkv->bthv", query, faded[:, :, 0], initial_state)
    final = torch.einsum("bhj,bjhk,bjhv->bhkv", faded[:, :, 1:, -1], key, value)
    return outputs, final + faded[:, :, 0, -1, None, None] * initial_state


def test_the_reference_is_the_sum_over_all_pairs() -> None:
    tensors, cotangents = problem(2, 9, 3, 4, 5)
    truth, expected = truth_of(tensors, cotangents), differentiated(sums, tensors, cotangents)
    for name, value in expected.items():
        torch.testing.assert_close(truth[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("T", "dtype"), [(T, dtype) for T in LENGTHS for dtype in DTYPES if T in (1, 65) or dtype not in HALF], ids=str
)
def test_equals_the_reference_at_awkward_lengths(T: int, dtype: torch.dtype, fast: str) -> None:
    assert_equals(long_truth(T), matrix_scan, *problem(2, T, 3, 5, 4), dtype, backend=fast)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 16, 32), (3, 17, 7), (1, 5, 40), (2, 66, 3)], ids=str)
def test_equals_the_reference_at_awkward_widths(sizes: tuple[int, int, int], dtype: torch.dtype, fast: str) -> None:
    tensors, cotangents = problem(2, 19, *sizes)
    assert_equals(truth_of(tensors, cotangents), matrix_scan, tensors, cotangents, dtype, backend=fast)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("fade", ["kept", "gone", "reset", "mixed", "growing"])
def test_any_decay_is_exact(fade: str, dtype: torch.dtype, fast: str) -> None:
    """Nothing of what has faded is left as rounding: a form that subtracts sums of logarithms fails here."""
    tensors, cotangents = problem(2, 70, 2, 3, 4)
    decay = tensors["log_decay"]
    tensors["log_decay"] = {
        "kept": torch.zeros_like(decay),
        "gone": torch.full_like(decay, -50.0),
        "reset": decay.index_fill(1, torch.tensor([0, 3, 40]), -torch.inf),
        "mixed": coarse(40 * decay),
        "growing": coarse(-decay / 8),
    }[fade]
    assert_equals(truth_of(tensors, cotangents), matrix_scan, tensors, cotangents, dtype, backend=fast)


@pytest.mark.parametrize("name", ["cpu", "torch"])
@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(*(st.integers(0, most) for most in (3, 40, 3, 9, 9))))
def test_equals_the_reference_for_any_shape(shape: tuple[int, int, int, int, int], name: str) -> None:
    tensors, cotangents = problem(*shape)
    truth = truth_of(tensors, cotangents)
    with implementation(name, OPERATOR) as backend:
        found = differentiated(matrix_scan, tensors, cotangents, backend=backend)
    for key, expected in truth.items():
        torch.testing.assert_close(found[key], expected, rtol=1e-11, atol=1e-11)


def test_no_step_leaves_the_state_as_it_is(fast: str) -> None:
    tensors, cotangents = problem(2, 0, 3, 4, 5)
    found = differentiated(matrix_scan, tensors, cotangents, backend=fast)
    assert torch.equal(found["result 1"], tensors["initial_state"])
    assert torch.equal(found["initial_state"], cotangents[1])


@pytest.mark.parametrize("layout", ["slices", "time first", "channels first", "every other", "one for all heads"])
def test_takes_tensors_of_any_stride(layout: str, fast: str) -> None:
    B, T, H, K, V = 3, 20, 2, 5, 4

    def cut(width: int) -> Tensor:
        return {
            "slices": lambda: torch.randn(B, T, H, 3 * width)[..., width : 2 * width],
            "time first": lambda: torch.randn(T, B, H, width).transpose(0, 1),
            "channels first": lambda: torch.randn(B, H, width, T).permute(0, 3, 1, 2),
            "every other": lambda: torch.randn(B, 2 * T, H, 2 * width)[:, ::2, :, ::2],
            "one for all heads": lambda: torch.randn(B, T, 1, width).expand(B, T, H, width),
        }[layout]().double()

    given = (cut(K), cut(K), cut(V), -cut(1).abs().squeeze(3), torch.randn(H, V, K, B).double().permute(3, 0, 2, 1))
    cotangents = cut(V), torch.randn(H, V, K, B).double().permute(3, 0, 2, 1)
    module = BACKENDS[fast].load(OPERATOR)

    def run(tensors: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]) -> list[Tensor]:
        scan = Arguments(*tensors)
        return [*module.forward(scan), *module.backward(scan, *cotangents)]

    strided = run(given, cotangents)
    plain = run(*(tuple(tensor.contiguous() for tensor in each) for each in (given, cotangents)))
    for one, other in zip(strided, plain, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other)


def test_gradcheck(fast: str) -> None:
    tensors, _ = problem(2, 7, 2, 3, 2)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    assert torch.autograd.gradcheck(lambda *leaves: matrix_scan(*leaves, backend=fast), leaves)


def test_registration() -> None:
    leaves = [tensor.float().requires_grad_() for tensor in problem(2, 5, 2, 3, 4)[0].values()]
    torch.library.opcheck(torch.ops.seqbench.matrix_scan.default, (*leaves, "torch"), test_utils=REGISTRATION)


def test_final_state_continues_a_sequence(fast: str) -> None:
    tensors, _ = problem(2, 50, 2, 4, 3)
    whole, last = matrix_scan(**tensors, backend=fast)
    state, outputs = tensors.pop("initial_state"), []
    for piece in (slice(0, 20), slice(20, 21), slice(21, 50)):
        cut = {name: tensor[:, piece] for name, tensor in tensors.items()}
        output, state = matrix_scan(**cut, initial_state=state, backend=fast)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole)
    torch.testing.assert_close(state, last)


def test_padding_changes_neither_outputs_before_it_nor_with_keys_of_zero_the_state(fast: str) -> None:
    tensors, _ = problem(2, 21, 2, 4, 3)
    whole, last = matrix_scan(**{n: t if n == "initial_state" else t[:, :17] for n, t in tensors.items()}, backend=fast)
    tensors["key"][:, 17:] = 0
    tensors["log_decay"][:, 17:] = 0
    outputs, final = matrix_scan(**tensors, backend=fast)
    torch.testing.assert_close(outputs[:, :17], whole)
    torch.testing.assert_close(final, last)


def test_equals_the_reference_where_a_graph_for_every_length_is_made() -> None:
    tensors, cotangents = problem(2, 19, 2, 3, 4)
    tensors["log_decay"][:, 4] = -torch.inf
    truth = truth_of(tensors, cotangents)
    with parallel_scans(32):
        outputs, final = matrix_scan(**tensors)
    torch.testing.assert_close(outputs, truth["result 0"])
    torch.testing.assert_close(final, truth["result 1"])


@pytest.mark.parametrize("pool", ["torch's threads", "threads of its own"])
def test_any_number_of_threads_gives_the_same_bits(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := BACKENDS["cpu"].unavailable(OPERATOR, "cpu"):
        pytest.skip(reason)
    if pool == "threads of its own":
        monkeypatch.setattr(binding, "_torch_threads", lambda: None)
    tensors, cotangents = problem(4, 100, 3, 13, 17)
    assert 4 * 100 * 3 * 13 * 17 >= 3 * 65536  # the kernel's least share of a thread
    scan = Arguments(*(tensor.float() for tensor in tensors.values()))
    runs = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        runs.append([*cpu_scan.forward(scan), *cpu_scan.backward(scan, *(tensor.float() for tensor in cotangents))])
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 500, 3, 17, 30), (9, 7, 3, 40, 20)], ids=str)
def test_the_kernel_stays_within_its_workspace(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := BACKENDS["cpu"].unavailable(OPERATOR, "cpu"):
        pytest.skip(reason)
    allocate, guarded = cpu_scan._workspace, []

    def workspace(*arguments: Any) -> Tensor:
        fence = torch.full((8,), 7.0, dtype=torch.float64)
        guarded.append(torch.cat([allocate(*arguments), fence]))
        return guarded[-1]

    monkeypatch.setattr(cpu_scan, "_workspace", workspace)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    tensors, cotangents = problem(*shape)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    differentiated(matrix_scan, tensors, [cotangent.to(dtype) for cotangent in cotangents], backend="cpu")
    assert len(guarded) == 2
    assert all((memory[-8:] == 7).all() for memory in guarded)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key": torch.rand(2, 5, 3, 5)}, "key must be"),
        ({"log_decay": torch.rand(2, 5, 3, dtype=torch.float64)}, "log_decay is torch.float64"),
        ({"value": torch.rand(2, 5, 4)}, "value \\(B, T, H, V\\)"),
        ({"query": torch.ones(2, 5, 3, 4, dtype=torch.int64)}, "must be real floating-point numbers"),
    ],
)
def test_refuses_what_does_not_fit(changed: dict[str, Tensor], message: str) -> None:
    tensors = {name: tensor.float() for name, tensor in problem(2, 5, 3, 4, 4)[0].items()}
    with pytest.raises(ValueError, match=message):
        matrix_scan(**tensors | changed)
