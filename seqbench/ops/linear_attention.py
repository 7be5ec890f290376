"""L2-normalised linear attention: the product of keys and values is formed before the queries are asked.

Liu, Cai, Zhang, Zhao, Gao, Wang, Lv, Fan, Wang, He, Liu, Li. "LinRec: Linear Attention Mechanism for Long-term
Sequential Recommender Systems", SIGIR 2023. With q̂ = elu(q) / ‖elu(q)‖₂ and k̂ likewise, norms over the E features of
one position of one head:

    o[t] = q̂[t] · (Σ k̂[j]ᵀ v[j]) / √E         over all j, or over j ≤ t when causal

There is no softmax and no division by the sum of weights. The cost is linear in T.

Shapes: B batch, T time, E = D / heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops import matrix_scan

# Norms below this count as this, so that a vector of zeros stays zero. Elsewhere the result is exact. In float16, whose
# largest number is below 1 / 1e-6, its smallest normal number takes the place.
SMALLEST_NORM = 1e-6


def linear_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, valid: Tensor | None = None) -> Tensor:
    """L2-normalised linear attention; differentiable (once) in query, key and value.

    Args:
        query, key, value: (B, T, heads, E), before ELU and normalisation.
        causal: sum over positions up to the query's own instead of over all.
        valid: (B, T) bool, which positions take part in the sums; all if None. Results at other positions are
            meaningless, but finite.

    Returns:
        (B, T, heads, E).
    """
    if causal:
        return causal_linear_attention(query, key, value, valid=valid)[0]
    query, key, value = (tensor.transpose(1, 2) for tensor in (unit_elu(query), unit_elu(key, valid), value))
    return (query @ (key.transpose(-2, -1) @ value / math.sqrt(query.shape[-1]))).transpose(1, 2)


def causal_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor | None = None, *, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attend causally, going on from a state: a matrix scan in which nothing fades.

    Args:
        query, key, value: (B, T, heads, E), before ELU and normalisation.
        state: (B, heads, E, E) sum of k̂ᵀ v over the positions before; zero if None.
        valid: as in `linear_attention`.

    Returns:
        (B, T, heads, E), and the sum with these positions.
    """
    query, key = unit_elu(query) / math.sqrt(query.shape[-1]), unit_elu(key, valid)
    return matrix_scan(query, key, value, query.new_zeros(()).expand(query.shape[:3]), state)


def unit_elu(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """elu(x) / ‖elu(x)‖₂ over the last dimension; zero where not valid.

    Args:
        x: (B, T, heads, E), or anything where `valid` is None.
        valid: (B, T) bool.
    """
    mask = None if valid is None else valid.to(x.dtype).unsqueeze(-1).unsqueeze(-1)
    result: Tensor = _UnitElu.apply(x, mask)  # type: ignore[no-untyped-call]
    return result


class _UnitElu(torch.autograd.Function):
    """Composed from torch's operations it reads and writes every element about twice as often."""

    @staticmethod
    def forward(ctx, x, mask):  # type: ignore[no-untyped-def]
        activated = F.elu(x)
        norm = torch.linalg.vector_norm(activated, dim=-1, keepdim=True)
        inverse = norm.clamp_min_(max(SMALLEST_NORM, torch.finfo(x.dtype).tiny)).reciprocal_()
        if mask is not None:
            inverse *= mask
        ctx.save_for_backward(activated, inverse)
        return activated * inverse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        activated, inverse = ctx.saved_tensors
        unit = activated * inverse
        # Only what is across the vector changes its direction.
        across = torch.addcmul(grad, unit, (grad * unit).sum(dim=-1, keepdim=True), value=-1).mul_(inverse)
        return across.mul_(activated.clamp_max(0).add_(1)), None  # elu' = min(elu, 0) + 1
