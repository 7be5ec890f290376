"""Causal softmax attention, with the fast dropout mask where torch's fused attention would draw a slow one.

Shapes: B batch, heads, T time, E = D / heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.dropout import dropout as apply_dropout


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, *, dropout: float, training: bool, lengths: Tensor | None = None
) -> Tensor:
    """softmax(Q Kᵀ / √E, keys up to the query's own position) V, with dropout on the probabilities.

    Args:
        query: (B, heads, T, E), or (B, heads, 1, E): of the last position only.
        key, value: (B, heads, T, E).
        lengths: (B,) of the rows, if the query is that of the last item of each and some are shorter than T.

    Returns:
        As `query`.
    """
    causal = bool(
        query.shape[-2] > 1
    )  # the last position sees everything; is_causal would line it up with the first key
    seen = None
    if lengths is not None:
        seen = (torch.arange(key.shape[-2], device=key.device) < lengths.unsqueeze(1))[:, None, None]
    if not training or dropout == 0:
        return F.scaled_dot_product_attention(query, key, value, seen, is_causal=causal)
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, seen, is_causal=causal, dropout_p=dropout)
    # With dropout torch's CPU attention is this very sequence of products, plus a mask that costs more than they do.
    scores = torch.matmul(query / math.sqrt(query.shape[-1]), key.transpose(-2, -1))
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    elif causal:
        T = query.shape[-2]
        scores = scores.add_(torch.full((T, T), -math.inf, dtype=query.dtype).triu(1))
    probabilities = torch.softmax(scores, dim=-1)
    return torch.matmul(apply_dropout(probabilities, dropout, training), value)
