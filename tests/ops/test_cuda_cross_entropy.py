"""Cross entropy's CUDA kernels, run from their PTX: strides, chunks, and logits that are far apart.

Every element type and choice is compared with the reference in tests/ptx/test_kernels.py.
"""

import math

import pytest
import torch
from torch import Tensor

from seqbench.ops.cuda import linear_cross_entropy as launching
from seqbench.ops.functions.linear_cross_entropy import linear_cross_entropy
from tests.ops.opskit import assert_close
from tests.ptx.gpu import Emulation, emulated


def problem(N: int, V: int, D: int, dtype: torch.dtype, bias: bool = True) -> tuple[dict[str, Tensor], Tensor]:
    tensors = {"states": torch.randn(N, D), "items": torch.randn(V, D)}
    if bias:
        tensors["bias"] = torch.randn(V)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}, torch.randint(V, (N,))


def differentiated(tensors: dict[str, Tensor], targets: Tensor, backend: str) -> dict[str, Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    loss = linear_cross_entropy(**{"bias": None, **leaves}, targets=targets, backend=backend)
    return {"loss": loss.detach(), **dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))}


def compare(tensors: dict[str, Tensor], targets: Tensor, emulation: Emulation | None = None) -> None:
    truth = differentiated({name: tensor.double() for name, tensor in tensors.items()}, targets, "reference")
    with emulated(emulation=emulation):
        ours = differentiated(tensors, targets, "cuda")
    for name, true in truth.items():
        assert ours[name].dtype == tensors["states"].dtype
        assert_close(ours[name], true, ours[name].dtype, name)


def test_without_a_bias_and_with_states_of_any_stride() -> None:
    tensors, targets = problem(6, 300, 4, torch.float32, bias=False)
    tensors["states"] = torch.randn(4, 6).t()
    tensors["items"] = torch.randn(300, 9)[:, 2:6]
    compare(tensors, targets)


def test_positions_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "chunk_rows", lambda row_bytes, cache_bytes: 4)
    emulation = Emulation()
    compare(*problem(10, 200, 3, torch.float32), emulation)
    assert emulation.launches == {
        "linear_cross_entropy_statistics_float32": 3,
        "linear_cross_entropy_gradient_float32": 3,
    }


def test_a_certain_target_leaves_nothing_to_learn() -> None:
    """Where the target's probability rounds to one, its gradient is minus the sum of the others, not zero."""
    states, items = torch.tensor([[30.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    targets = torch.tensor([0])
    with emulated():
        ours = differentiated({"states": states, "items": items}, targets, "cuda")
    others = math.exp(-30)  # of a sum that is one
    assert ours["loss"].item() == pytest.approx(others, rel=1e-5)
    assert ours["items"][:2].flatten().tolist() == pytest.approx([-30 * others, 30 * others], rel=1e-5)


def test_items_that_are_ruled_out_have_no_gradient() -> None:
    tensors, targets = problem(3, 40, 4, torch.float32)
    tensors["bias"][7:20] = -torch.inf
    targets[:] = torch.tensor([0, 3, 39])
    with emulated():
        ours = differentiated(tensors, targets, "cuda")
    assert ours["loss"].isfinite()
    assert not ours["bias"][7:20].any()
    assert ours["items"].isfinite().all()


def test_the_loss_alone() -> None:
    tensors, targets = problem(5, 700, 4, torch.float32)
    with emulated() as emulation, torch.no_grad():
        loss = linear_cross_entropy(**tensors, targets=targets, backend="cuda")
    assert emulation.stored["linear_cross_entropy_gradient_float32"] == 5 * loss.element_size()
    true = linear_cross_entropy(**{k: t.double() for k, t in tensors.items()}, targets=targets, backend="reference")
    assert_close(loss, true, torch.float32, "loss")


def test_a_chunk_of_logits_fits_half_of_the_cache_but_fills_a_product() -> None:
    assert launching.chunk_rows(4 * 3416, 50 << 20) == (25 << 20) // (4 * 3416)
    assert launching.chunk_rows(4 * 57289, 50 << 20) == launching.FEWEST_ROWS
    assert launching.chunk_rows(4 * 10**7, 50 << 20) == (256 << 20) // (4 * 10**7)
