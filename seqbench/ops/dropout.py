"""Dropout whose random numbers do not dominate training on a CPU.

torch draws a dropout mask on the CPU one element at a time from a serial Mersenne Twister: a third of a training
step of the small models of this field. Here the mask follows from a seed, in the pass that applies it and in the
backward pass again, so that it is never kept: in C++ from the seed and each element's index, in torch from one 64-bit
draw for four elements, 16 bits each. The probability is rounded (to a multiple of 2⁻³² or 2⁻¹⁶), and the scale to
match, so the expectation is exact.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.ops.operator import Gradient, Operator, Signature, like


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero elements with the given probability, below 1, and scale the others up, if training."""
    if not 0 <= probability < 1:
        raise ValueError(f"probability must be in [0, 1), got {probability}")
    if not training or probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    kept: Tensor = OPERATOR(x, torch.randint(-(2**63), 2**63 - 1, ()), probability)
    return kept


def _save(ctx, arguments, output) -> None:  # type: ignore[no-untyped-def]
    _, seed, ctx.probability = arguments
    ctx.save_for_backward(seed)


def _vjp(ctx, backward, grad):  # type: ignore[no-untyped-def]
    return backward(grad, *ctx.saved_tensors, ctx.probability), None, None


_SIGNATURE = Signature("(Tensor x, Tensor seed, float probability) -> Tensor", empty=lambda x, *_: like(x))
OPERATOR = Operator("dropout", _SIGNATURE, Gradient(_save, _vjp, _SIGNATURE))


class Dropout(nn.Module):
    """`nn.Dropout` with the fast mask."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability, self.training)
