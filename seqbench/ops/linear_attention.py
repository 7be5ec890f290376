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

from seqbench.ops import parallel

# Norms below this count as this, so that a vector of zeros stays zero. Elsewhere the result is exact. In float16, whose
# largest number is below 1 / 1e-6, its smallest normal number takes the place.
SMALLEST_NORM = 1e-6

# Causal sums are carried from chunk to chunk of this many positions; within a chunk the weights are formed.
# On a CPU 16 to 64 are alike for the sizes of this field, and the larger are slower.
CHUNK = 32


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
    attend = _causal if causal else _full
    heads_first = (tensor.transpose(1, 2) for tensor in (unit_elu(query), unit_elu(key, valid), value))
    return attend(*heads_first).transpose(1, 2)


def linear_attention_step(query: Tensor, key: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One position of the causal form.

    Args:
        query, key, value: (B, heads, E), before ELU and normalisation.
        state: (B, heads, E, E) sum of k̂ᵀ v over the positions before; zero at the start.

    Returns:
        (B, heads, E), and the sum with this position.
    """
    state = state + unit_elu(key).unsqueeze(-1) * value.unsqueeze(-2)
    attended = (unit_elu(query).unsqueeze(-2) @ state).squeeze(-2) / math.sqrt(query.shape[-1])
    return attended, state


def linear_attention_sum(key: Tensor, value: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the sum (B, heads, E, E) of k̂ᵀ v over the valid ones of positions (B, T, heads, E): a step's state."""
    return unit_elu(key, valid).permute(0, 2, 3, 1) @ value.transpose(1, 2)


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


def _full(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """q[t] · Σ k[j]ᵀ v[j] / √E for (B, heads, T, E)."""
    return query @ (key.transpose(-2, -1) @ value / math.sqrt(query.shape[-1]))


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """q[t] · Σ_{j ≤ t} k[j]ᵀ v[j] / √E for (B, heads, T, E): weights within chunks, sums of kᵀ v between them."""
    T = query.shape[2]
    query = query / math.sqrt(query.shape[-1])
    if parallel.wanted() or T <= CHUNK:
        return (query @ key.transpose(-2, -1)).tril() @ value
    query, key, value = (
        F.pad(tensor, (0, 0, 0, -T % CHUNK)).unflatten(2, (-1, CHUNK)) for tensor in (query, key, value)
    )  # (B, heads, T / CHUNK, CHUNK, E)
    within = (query @ key.transpose(-2, -1)).tril() @ value
    sums = key[:, :, :-1].transpose(-2, -1) @ value[:, :, :-1]
    before = F.pad(sums.cumsum(dim=2), (0, 0, 0, 0, 1, 0))  # nothing is before the first chunk
    return (within + query @ before).flatten(2, 3)[:, :, :T]
