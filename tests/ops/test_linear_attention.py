"""Linear attention against the golden sums and the quadratic form: values and every gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.linear_attention import causal_linear_attention, linear_attention, unit_elu
from tests.conftest import Golden

GOLDEN = Golden("linattn_causal")
TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-11}, torch.float32: {"rtol": 1e-4, "atol": 2e-5}}
LENGTHS = (1, 2, 17, 200)


def quadratic(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """The definition, with all T² weights; `visible` (B, T, T) says which query sees which key."""
    unit_query, unit_key = (F.normalize(F.elu(tensor), dim=-1) for tensor in (query, key))
    weights = torch.einsum("bthe,bshe->bhts", unit_query, unit_key) * visible.unsqueeze(1)
    return torch.einsum("bhts,bshe->bthe", weights, value) / math.sqrt(query.shape[-1])


def with_gradients(attended: Tensor, leaves: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    return [attended.detach(), *torch.autograd.grad((attended * cotangent).sum(), leaves)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask", [None, "mask_right", "mask_left"])
@pytest.mark.parametrize("causal", [False, True], ids=["all keys", "causal"])
def test_equals_the_golden_sums_and_their_gradients(causal: bool, mask: str | None, dtype: torch.dtype) -> None:
    name = ("causal" if causal else "noncausal") + (f"_{mask}" if mask else "")
    leaves = [GOLDEN[key].transpose(1, 2).to(dtype).requires_grad_() for key in "qkv"]
    attended = linear_attention(*leaves, causal=causal, valid=None if mask is None else GOLDEN[mask])
    found = with_gradients(attended, leaves, GOLDEN["c"].transpose(1, 2))
    for ours, key in zip(found, ("o", "gq", "gk", "gv"), strict=True):
        torch.testing.assert_close(ours.double(), GOLDEN[f"{name}/{key}"].transpose(1, 2), **TOLERANCE[dtype])


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("causal", [False, True], ids=["all keys", "causal"])
def test_equals_the_quadratic_form_at_every_length(causal: bool, T: int) -> None:
    leaves = [torch.randn(3, T, 2, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    valid = torch.arange(T) < torch.tensor([[T], [max(1, T // 2)], [1]])
    visible = valid.unsqueeze(1).expand(-1, T, -1)
    cotangent = torch.randn(3, T, 2, 5, dtype=torch.float64)
    slow = quadratic(*leaves, visible.tril() if causal else visible)
    fast = linear_attention(*leaves, causal=causal, valid=valid)
    for ours, theirs in zip(
        with_gradients(fast, leaves, cotangent), with_gradients(slow, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **TOLERANCE[torch.float64])


def test_steps_equal_the_causal_form() -> None:
    query, key, value = torch.randn(3, 3, 33, 2, 5)
    whole = linear_attention(query, key, value, causal=True)
    state = torch.zeros(3, 2, 5, 5)
    for t in range(query.shape[1]):
        step = slice(t, t + 1)
        attended, state = causal_linear_attention(query[:, step], key[:, step], value[:, step], state)
        torch.testing.assert_close(attended, whole[:, step], **TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.bfloat16, torch.float16], ids=str)
def test_a_vector_of_zeros_stays_zero_and_has_a_finite_gradient(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    unit = unit_elu(x)
    unit.sum().backward()
    assert torch.equal(unit, torch.zeros(2, 3, dtype=dtype))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_gradients_of_the_unit_vectors_are_those_of_finite_differences() -> None:
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, True, True], [True, False, False]])
    assert torch.autograd.gradcheck(lambda x: unit_elu(x, valid), x)
