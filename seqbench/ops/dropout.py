"""Dropout whose random numbers do not dominate training on a CPU.

torch draws a dropout mask on the CPU one element at a time from a serial Mersenne Twister: a third of a training
step of the small models of this field. The C++ kernel makes the mask of a seed and each element's index, in the pass
that applies it and in the backward pass again. Without it one 64-bit draw serves four elements, 16 bits each. The
probability is rounded (to a multiple of 2⁻³² or 2⁻¹⁶), and the scale to match, so the expectation is exact.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.ops.backends import BACKENDS, resolve
from seqbench.ops.operator import Operator, like

OPERATOR = "dropout"


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero elements with the given probability, below 1, and scale the others up, if training."""
    if not 0 <= probability < 1:
        raise ValueError(f"probability must be in [0, 1), got {probability}")
    if not training or probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    if resolve(OPERATOR, "auto", "cpu").name == "cpu":
        return _dropout(x, torch.randint(-(2**63), 2**63 - 1, ()), probability)
    return x * _mask(x.shape, probability, x)


def _forward(x: Tensor, seed: Tensor, probability: float) -> Tensor:
    return BACKENDS["cpu"].load(OPERATOR).forward(x, int(seed), probability)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, seed, ctx.probability = inputs
    ctx.save_for_backward(seed)


def _pull(ctx, backward, grad):  # type: ignore[no-untyped-def]
    return backward(grad, *ctx.saved_tensors, ctx.probability), None, None


_same = (_forward, lambda x, *_: like(x))
_dropout = Operator(OPERATOR, _same, _save, _pull, backward=_same)


def _mask(shape: torch.Size, probability: float, like: Tensor) -> Tensor:
    """Zeros and 1 / (1 - probability), in the dtype of `like`, from torch's default CPU generator."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(probability * 65536), 65535)  # of 65,536 equally likely values
    kept = words.view(torch.int16)[:count] >= dropped - 32768
    return kept.to(like.dtype).mul_(65536 / (65536 - dropped)).view(shape)


class Dropout(nn.Module):
    """`nn.Dropout` with the fast mask."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability, self.training)
