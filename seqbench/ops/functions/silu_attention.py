"""Causal attention with SiLU in the place of the softmax, and biases of how far and how long ago: HSTU's.

Zhai, Liao, Liu, Wang, Li, Cao, Gao, Gong, Gu, He, Lu, Shi. "Actions Speak Louder than Words: Trillion-Parameter
Sequential Transducers for Generative Recommendations", ICML 2024, equation 2, in RecTools' form of the biases:

    o[p] = scale · Σ_{j ≤ p} silu(q[p] · k[j] + w_position[p - j] + w_time[bucket(requests[p] - events[j])]) v[j]
    bucket(d) = min(⌊ln(max(1, |d|)) / 0.301⌋, K - 1)

A weight depends on no other weight of its row, so that rows are computed in blocks and nothing of the size T² is held;
the backward pass computes the weights of a block again.

Shapes: B batch, H heads, T time, E = D / H, L longest distance that has a bias, K buckets.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.operator import Gradient, Operator, Signature, check, like
from seqbench.precision import in_full

LOG_STEP = 0.301  # of the natural logarithm of seconds from bucket to bucket


class Arguments(NamedTuple):
    """What the backends' functions take."""

    query: Tensor  # (B, H, T, E)
    key: Tensor  # (B, H, T, E)
    value: Tensor  # (B, H, T, E)
    position_bias: Tensor  # (L,), L ≥ T, by distance
    time_bias: Tensor | None  # (K,)
    events: Tensor | None  # (B, T) int64 seconds
    requests: Tensor | None  # (B, T) int64 seconds
    scale: float


@in_full
def silu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position_bias: Tensor,
    time_bias: Tensor | None = None,
    events: Tensor | None = None,
    requests: Tensor | None = None,
    *,
    scale: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Attend from every position; differentiable in query, key, value and both biases.

    Args:
        query, key, value: (B, H, T, E).
        position_bias: (L,), L ≥ T, of keys that are 0, 1, … positions before the query.
        time_bias: (K,) of the buckets of time; None for none.
        events: (B, T) int64, seconds of the keys; with a time bias only.
        requests: (B, T) int64, seconds of the queries; with a time bias only.
        scale: factor of the result.
        backend: name of a backend, or "auto".

    Returns:
        (B, H, T, E).

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        UsageError: the backend is unknown or cannot run on this device.
    """
    if query.dim() != 4:
        raise ValueError(f"query must be (B, H, T, E), got {tuple(query.shape)}")
    B, _, T, _ = query.shape
    check("query", query, key=(key, query.shape), value=(value, query.shape))
    if position_bias.dim() != 1 or len(position_bias) < T:
        raise ValueError(f"position_bias must be ({T} or more,), got {tuple(position_bias.shape)}")
    if (time_bias is None) != (events is None) or (time_bias is None) != (requests is None):
        raise ValueError("time_bias, events and requests belong together")
    for name, times in (("events", events), ("requests", requests)):
        if times is not None and (times.shape != (B, T) or times.dtype != torch.int64):
            raise ValueError(f"{name} must be ({B}, {T}) of int64, got {tuple(times.shape)} of {times.dtype}")
    attended: Tensor = OPERATOR(query, key, value, position_bias, time_bias, events, requests, scale, backend=backend)
    return attended


@in_full
def silu_attention_last(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position_bias: Tensor,
    time_bias: Tensor | None = None,
    events: Tensor | None = None,
    requests: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Attend from the last position of each row alone; differentiable as torch's own operations are.

    Args:
        query: (B, H, E).
        key, value: (B, H, T, E).
        position_bias, time_bias: as in `silu_attention`.
        events: (B, T) int64 seconds of the keys.
        requests: (B,) int64 seconds of the queries.
        lengths: (B,) of the rows; None if all have T.
        scale: factor of the result.

    Returns:
        (B, H, E).
    """
    T = key.shape[2]
    places = torch.arange(T, device=key.device)
    last = T - 1 if lengths is None else lengths.unsqueeze(1) - 1
    before = last - places  # (T,) or (B, T)
    bias = position_bias[before.clamp_min(0)]
    if time_bias is not None and events is not None and requests is not None:
        bias = bias + time_bias[time_buckets(requests.unsqueeze(1) - events, len(time_bias))]
    scores = (query.unsqueeze(2) @ key.transpose(2, 3)).squeeze(2)  # (B, H, T)
    weights = F.silu(scores + (bias if bias.dim() == 1 else bias.unsqueeze(1)))
    if lengths is not None:
        weights = weights * (before >= 0).to(weights.dtype).unsqueeze(1)
    return (weights.unsqueeze(2) @ value).squeeze(2) * scale


def time_buckets(seconds: Tensor, count: int) -> Tensor:
    """Return the bucket of each number of seconds, int64, from 0 to `count` - 1.

    The logarithm is one of float32, as RecTools' is: next to the edge of a bucket that decides.
    """
    return seconds.float().abs_().clamp_min_(1).log_().div_(LOG_STEP).long().clamp_max_(count - 1)


def _save(ctx, arguments, attended) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.scale = arguments
    ctx.save_for_backward(*tensors)


def _vjp(ctx, backward, grad):  # type: ignore[no-untyped-def]
    given = ctx.saved_tensors
    *gradients, of_time = backward(*given, ctx.scale, grad)
    return *gradients, None if given[4] is None else of_time, None, None, None


SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor position_bias, Tensor? time_bias, Tensor? events, "
    "Tensor? requests, float scale"
)


def _flops(query: Tensor, *_: object) -> int:
    B, H, T, E = query.shape
    return 4 * B * H * T * T * E  # two products, of which torch counts the masked half of softmax attention as well


OPERATOR = Operator(
    "silu_attention",
    Signature(f"{SCHEMA}) -> Tensor", empty=lambda query, *_: like(query), flops=_flops),
    Gradient(
        _save,
        _vjp,
        Signature(
            f"{SCHEMA}, Tensor grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
            empty=lambda query, key, value, position, time, *_: (
                *map(like, (query, key, value, position)),
                position.new_empty(0) if time is None else like(time),
            ),
        ),
    ),
    Arguments,
)
