"""Catalogue cross entropy in blocks against torch's own over all logits."""

import pytest
import torch
import torch.nn.functional as F

from seqbench.ops import cross_entropy
from seqbench.ops.cross_entropy import linear_cross_entropy


def problem(N: int, V: int, D: int = 6, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    states = torch.randn(N, D, dtype=dtype, requires_grad=True)
    items = torch.randn(V, D, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    return states, items, bias, torch.randint(0, V, (N,))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("N", "V"), [(1, 1), (1, 50), (16, 3), (17, 50), (100, 301)])
def test_loss_and_gradients_equal_torch(N: int, V: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy.BLOCK_BYTES, "cpu", 0)  # the smallest blocks, 16 rows
    states, items, bias, targets = problem(N, V)
    leaves = [states, items, bias] if with_bias else [states, items]
    ours = linear_cross_entropy(states, items, bias if with_bias else None, targets)
    theirs = F.cross_entropy(states @ items.t() + (bias if with_bias else 0), targets)
    torch.testing.assert_close(ours, theirs)
    for mine, true in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * theirs, leaves), strict=True):
        torch.testing.assert_close(mine, true)


def test_gradcheck() -> None:
    states, items, bias, targets = problem(5, 7)
    assert torch.autograd.gradcheck(lambda *leaves: linear_cross_entropy(*leaves, targets), (states, items, bias))


def test_large_scores_neither_overflow_nor_vanish() -> None:
    states = torch.tensor([[1e4], [-1e4]])
    items = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    targets = torch.tensor([1, 0])  # the least likely item of both rows, whose probability underflows to zero
    loss = linear_cross_entropy(states, items, None, targets)
    torch.testing.assert_close(loss, F.cross_entropy(states @ items.t(), targets))
    assert torch.isfinite(torch.autograd.grad(loss, items)[0]).all()


def test_the_logits_are_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy.BLOCK_BYTES, "cpu", 1 << 16)
    N, V = 512, 4096
    largest = 0
    original = torch.empty_like

    def watch(tensor: torch.Tensor, **kwargs: object) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return original(tensor, **kwargs)

    monkeypatch.setattr(torch, "empty_like", watch)
    states, items, bias, targets = problem(N, V, dtype=torch.float32)
    linear_cross_entropy(states, items, bias, targets).backward()
    assert largest < N * V / 16


def test_refuses_an_empty_batch() -> None:
    states, items, bias, targets = problem(1, 4)
    with pytest.raises(ValueError, match="at least one position"):
        linear_cross_entropy(states[:0], items, bias, targets[:0])
