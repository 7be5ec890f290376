"""Every cross entropy backend against torch's own over all logits in float64: the loss and every gradient."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqbench.ops import linear_cross_entropy
from seqbench.ops.backends import BACKENDS
from seqbench.ops.cpu import binding
from seqbench.ops.cpu import linear_cross_entropy as cpu
from seqbench.ops.pytorch import linear_cross_entropy as torch_blocks
from tests.ops.opskit import REGISTRATION, rotating

OPERATOR = "linear_cross_entropy"

# Largest deviation, relative to the largest value of the compared tensor.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
NAMES = ("loss", "grad_states", "grad_items", "grad_bias")


def on_this_machine(name: str) -> str:
    if reason := BACKENDS[name].unavailable(OPERATOR, "cpu"):
        pytest.skip(reason)
    return name


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that can run on the CPU here."""
    return on_this_machine(request.param)


@pytest.fixture(params=[name for name in BACKENDS if name != "reference"])
def fast(request: pytest.FixtureRequest) -> str:
    """Every such backend but the reference, to be compared with it."""
    return on_this_machine(request.param)


def problem(
    N: int, V: int, D: int = 6, dtype: torch.dtype = torch.float64, with_bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """States, items, bias and targets; logits of a few units."""
    bias = torch.randn(V).to(dtype) if with_bias else None
    return torch.randn(N, D).to(dtype), (torch.randn(V, D) / D**0.5).to(dtype), bias, torch.randint(0, V, (N,))


def results(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, backend: str, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """The loss, then the gradients of three times the loss; computed in `dtype`."""
    leaves = [tensor.detach().to(dtype or tensor.dtype) for tensor in (states, items, bias) if tensor is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    loss = linear_cross_entropy(*leaves[:2], leaves[2] if bias is not None else None, targets, backend=backend)
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


def assert_close(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for name, mine, true in zip(NAMES, actual, expected, strict=False):
        assert mine.dtype == dtype
        assert mine.shape == true.shape
        if true.numel() == 0:
            continue
        error = (mine.double() - true).abs().max().item()
        scale = max(true.abs().max().item(), torch.finfo(dtype).tiny)
        assert error <= TOLERANCE[dtype] * scale, f"{name}: error {error:.2e} of {scale:.2e} in {dtype}"


def compare_with_reference(arguments: tuple[Tensor, Tensor, Tensor | None, Tensor], backend: str) -> None:
    dtype = arguments[0].dtype
    truth = results(*arguments, "reference", torch.float64)
    assert_close(results(*arguments, backend), truth, dtype)


COUNTS = rotating(rotating(product((1, 17, 100, 1000), (1, 3, 50, 301, 1500)), (True, False)), tuple(TOLERANCE))


@pytest.mark.parametrize(("N", "V", "with_bias", "dtype"), COUNTS, ids=str)
def test_equals_reference_at_awkward_counts(
    N: int, V: int, with_bias: bool, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(torch_blocks.BLOCK_BYTES, "cpu", 1 << 16)  # several blocks
    monkeypatch.setattr(cpu, "BLOCK_BYTES", 1 << 18)  # blocks of 128 positions and of fewer
    compare_with_reference(problem(N, V, 6, dtype, with_bias), backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("D", [0, 1, 6, 16, 32, 50, 64, 100, 208])
def test_equals_reference_at_awkward_widths(D: int, dtype: torch.dtype, fast: str) -> None:
    compare_with_reference(problem(37, 333, D, dtype), fast)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "reference"])
@settings(max_examples=15, deadline=None)
@given(
    N=st.integers(1, 200),
    V=st.integers(1, 700),
    D=st.integers(1, 70),
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_reference_for_any_shape(N: int, V: int, D: int, with_bias: bool, seed: int, name: str) -> None:
    on_this_machine(name)
    torch.manual_seed(seed)
    compare_with_reference(problem(N, V, D, torch.float32, with_bias), name)


def test_gradcheck(fast: str) -> None:
    states, items, bias, targets = problem(5, 7)
    leaves = [tensor.requires_grad_() for tensor in (states, items, bias) if tensor is not None]
    assert torch.autograd.gradcheck(lambda *args: linear_cross_entropy(*args, targets, backend=fast), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("V", [3, 400])
def test_extreme_logits_neither_overflow_nor_vanish(V: int, dtype: torch.dtype, fast: str) -> None:
    states = torch.tensor([[1e4], [-1e4], [1e4], [-1e4]], dtype=dtype)
    items = torch.linspace(1, -1, V, dtype=dtype).unsqueeze(1)
    # The likeliest item of a row and the least likely one, whose probability underflows to zero.
    targets = torch.tensor([V - 1, 0, 0, V - 1])
    found = results(states, items, None, targets, fast)
    truth = results(states, items, None, targets, "reference", torch.float64)
    assert_close(found, truth, dtype)


def test_nothing_is_learned_from_what_is_certain(fast: str) -> None:
    states = torch.tensor([[1e4], [-1e4]])
    items = torch.tensor([[0.0], [1.0], [-1.0]])
    for value in results(states, items, None, torch.tensor([1, 2]), fast):
        assert not value.any()


def test_an_item_that_is_ruled_out_has_no_share(fast: str) -> None:
    states, items, bias, targets = problem(20, 300)
    assert bias is not None
    bias[100:290] = -torch.inf
    targets %= 100
    found = results(states, items, bias, targets, fast)
    assert_close(found, results(states, items, bias, targets, "reference"), torch.float64)
    assert not found[2][100:290].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_is_not_finite_is_not_hidden(where: int, value: float, fast: str) -> None:
    arguments = problem(20, 300, dtype=torch.float32)
    tensor = arguments[where]
    assert tensor is not None
    tensor.view(-1)[7] = value
    assert linear_cross_entropy(*arguments, backend=fast).isnan()


@pytest.mark.parametrize("layout", ["transposed", "every other", "broadcast", "offset"])
def test_takes_tensors_of_any_stride(layout: str, fast: str) -> None:
    def cut(rows: int, columns: int) -> Tensor:
        return {
            "transposed": lambda: torch.randn(columns, rows).t(),
            "every other": lambda: torch.randn(2 * rows, 2 * columns)[::2, ::2],
            "broadcast": lambda: torch.randn(columns).expand(rows, columns),
            "offset": lambda: torch.randn(rows * columns + 1)[1:].view(rows, columns),
        }[layout]()

    states, items, bias = cut(30, 16), cut(90, 16), cut(1, 90)[0]
    targets = torch.randint(0, 90, (60,))[::2]
    plain = [tensor.clone(memory_format=torch.contiguous_format) for tensor in (states, items, bias, targets)]
    module = BACKENDS[fast].load(OPERATOR)
    for mine, true in zip(
        module.forward(states, items, bias, targets, True), module.forward(*plain, True), strict=True
    ):
        assert mine.is_contiguous()
        torch.testing.assert_close(mine, true)


def test_without_gradients_the_loss_is_the_same(fast: str) -> None:
    arguments = problem(50, 700, 24, torch.float32)
    with_gradients = results(*arguments, fast)[0]
    loss = linear_cross_entropy(*arguments, backend=fast)
    assert not loss.requires_grad
    assert torch.equal(loss, with_gradients)
    parts = BACKENDS[fast].load(OPERATOR).forward(*arguments, False)
    assert [part.numel() for part in parts] == [1, 0, 0, 0]


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_gives_the_one_gradient_that_is_wanted(wanted: int, fast: str) -> None:
    arguments = problem(20, 50)
    leaf = arguments[wanted]
    assert leaf is not None
    linear_cross_entropy(*(t.requires_grad_() if i == wanted else t for i, t in enumerate(arguments)), backend=fast)
    leaf.requires_grad_()
    (gradient,) = torch.autograd.grad(linear_cross_entropy(*arguments, backend=fast), leaf)
    assert_close([gradient], [results(*arguments, "reference")[1 + wanted] / 3], torch.float64)


def test_operator_is_well_registered(fast: str) -> None:
    states, items, bias, targets = problem(9, 20, dtype=torch.float32)
    checks = REGISTRATION if fast == "cpu" else REGISTRATION[:3]  # the last takes seconds
    for given_bias in (bias, None):
        for wanted in (True, False):
            leaves = [t if t is None else t.clone().requires_grad_(wanted) for t in (states, items, given_bias)]
            arguments = (*leaves, targets, wanted, fast)
            torch.library.opcheck(torch.ops.seqbench.linear_cross_entropy.default, arguments, test_utils=checks)


def test_a_second_derivative_is_refused(fast: str) -> None:
    states, items, bias, targets = problem(5, 7)
    states.requires_grad_()
    loss = linear_cross_entropy(states, items, bias, targets, backend=fast)
    (gradient,) = torch.autograd.grad(loss * loss, states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "loss only"])
def test_the_logits_are_never_whole_in_memory(gradients: bool, fast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_blocks.BLOCK_BYTES, "cpu", 1 << 17)
    N, V, D = 4096, 1024, 16
    arguments = problem(N, V, D, torch.float32)
    made = 0

    def watched(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def function(*args: Any, **kwargs: Any) -> Tensor:
            nonlocal made
            tensor = original(*args, **kwargs)
            made += tensor.numel() * tensor.element_size()
            return tensor

        return function

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, watched(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", watched(Tensor.new_empty))
    parts = BACKENDS[fast].load(OPERATOR).forward(*arguments, gradients)
    asked = sum(part.numel() * part.element_size() for part in parts)
    assert asked <= made < asked + N * V * 4 / 16


@pytest.mark.parametrize("pool", ["torch's threads", "threads of its own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_number_of_threads_gives_the_same_bits(
    dtype: torch.dtype, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_this_machine("cpu")
    if pool == "threads of its own":
        monkeypatch.setattr(binding, "_torch_threads", lambda: None)
    arguments = problem(150, 3000, 20, dtype)  # the kernel's least share of a thread is a million multiplications
    runs = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        runs.append(cpu.forward(*arguments, True))
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(0, 6), 3: torch.zeros(0, dtype=torch.int64)}, "at least one position"),
        ({1: torch.zeros(7, 5)}, "items must be"),
        ({1: torch.zeros(7, 6, dtype=torch.float64)}, "items is torch.float64"),
        ({2: torch.zeros(6)}, "bias must be"),
        ({3: torch.zeros(4, dtype=torch.int64)}, "targets must be"),
        ({3: torch.zeros(5, dtype=torch.int32)}, "targets must be"),
    ],
    ids=["no positions", "width", "dtype", "bias", "number of targets", "type of targets"],
)
def test_refuses_what_does_not_fit(change: dict[int, Tensor], message: str) -> None:
    arguments = dict(enumerate(problem(5, 7, dtype=torch.float32))) | change
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(*arguments.values())  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [-1, 7])
def test_refuses_a_target_that_is_no_item(target: int, backend: str) -> None:
    states, items, bias, targets = problem(5, 7, dtype=torch.float32)
    targets[3] = target
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        linear_cross_entropy(states, items, bias, targets, backend=backend)
