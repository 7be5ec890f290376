"""HSTU's attention in PyTorch operations, a block of queries at a time, so that memory is linear in the length.

Shapes: B batch, H heads, T time, E features of a head, Q queries of a block, J keys that they see.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from seqbench.ops.functions.silu_attention import Arguments, time_buckets
from seqbench.ops.precision import widened

QUERIES = 64  # of a block


class Block(NamedTuple):
    """Some queries, and the keys that they see."""

    queries: slice
    keys: slice
    before: Tensor  # (Q, J) how far each key is before each query; 0 for those behind it
    seen: Tensor  # (Q, J) 1 for keys that are not behind the query, else 0
    buckets: Tensor | None  # (B, Q, J) of time

    def scores(self, given: Arguments) -> Tensor:
        """Return what SiLU is applied to, (B, H, Q, J)."""
        scores = given.query[:, :, self.queries] @ given.key[:, :, self.keys].transpose(2, 3)
        bias = chosen(given.position_bias, self.before)
        if given.time_bias is not None and self.buckets is not None:
            bias = chosen(given.time_bias, self.buckets).add_(bias).unsqueeze(1)
        return scores.add_(bias)


def blocks(given: Arguments) -> Iterator[Block]:
    """Yield all queries, block by block."""
    T, device = given.query.shape[2], given.query.device
    for start in range(0, T, QUERIES):
        stop = min(start + QUERIES, T)
        before = torch.arange(start, stop, device=device).unsqueeze(1) - torch.arange(stop, device=device)
        buckets = None
        if given.time_bias is not None and given.events is not None and given.requests is not None:
            gaps = given.requests[:, start:stop].unsqueeze(2) - given.events[:, :stop].unsqueeze(1)
            buckets = time_buckets(gaps, len(given.time_bias))
        seen = (before >= 0).to(given.query.dtype)
        yield Block(slice(start, stop), slice(stop), before.clamp_min(0), seen, buckets)


def chosen(values: Tensor, places: Tensor) -> Tensor:
    """Return values[places], which index_select does several times as fast."""
    return values.index_select(0, places.flatten()).view(places.shape)


@widened
def forward(given: Arguments) -> Tensor:
    """Return (B, H, T, E); arguments as in `silu_attention`."""
    attended = torch.empty(given.query.shape, dtype=given.query.dtype, device=given.query.device)
    for block in blocks(given):
        weights = torch.nn.functional.silu(block.scores(given), inplace=True).mul_(block.seen)
        attended[:, :, block.queries] = weights @ given.value[:, :, block.keys]
    return attended.mul_(given.scale)


@widened
def backward(given: Arguments, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of query, key, value, position_bias and time_bias, which is empty if there is none.

    Args:
        given: as `forward` took it.
        grad: (B, H, T, E), gradient of the loss with respect to the result.
    """
    grad_query = torch.empty(given.query.shape, dtype=given.query.dtype, device=given.query.device)
    grad_key, grad_value = (torch.zeros_like(each, memory_format=torch.contiguous_format) for each in given[1:3])
    grad_position = torch.zeros_like(given.position_bias)
    B, K = len(given.query), 0 if given.time_bias is None else len(given.time_bias)
    # Up to T² terms are summed for a bucket, one after the other.
    grad_time = torch.zeros(B, K, dtype=torch.float64, device=grad.device)
    grad = grad * given.scale
    for block in blocks(given):
        scores = block.scores(given)
        opened = scores.sigmoid()
        weights = scores.mul_(opened).mul_(block.seen)
        of_queries = grad[:, :, block.queries]
        grad_value[:, :, block.keys] += weights.transpose(2, 3) @ of_queries
        # silu' = σ + s·σ·(1 - σ), and s·σ is the weight.
        slope = torch.addcmul(opened, weights, 1 - opened).mul_(block.seen)
        grad_scores = (of_queries @ given.value[:, :, block.keys].transpose(2, 3)).mul_(slope)
        grad_query[:, :, block.queries] = grad_scores @ given.key[:, :, block.keys]
        grad_key[:, :, block.keys] += grad_scores.transpose(2, 3) @ given.query[:, :, block.queries]
        grad_bias = grad_scores.sum(dim=1)  # (B, Q, J)
        grad_position.index_add_(0, block.before.flatten(), grad_bias.sum(dim=0).flatten())
        if block.buckets is not None:
            grad_time.scatter_add_(1, block.buckets.flatten(1), grad_bias.flatten(1).double())
    return grad_query, grad_key, grad_value, grad_position, grad_time.sum(dim=0).to(grad.dtype)
