"""HSTU's attention with all weights at once. Shapes: B batch, H heads, T time, E features of a head."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.functions.silu_attention import Arguments, time_buckets
from seqbench.ops.precision import widened


@widened
def forward(given: Arguments) -> Tensor:
    """Return (B, H, T, E); arguments as in `silu_attention`."""
    places = torch.arange(given.query.shape[2], device=given.query.device)
    before = places.unsqueeze(1) - places  # (T, T), query by key
    bias = given.position_bias[before.clamp_min(0)]
    if given.time_bias is not None and given.events is not None and given.requests is not None:
        gaps = given.requests.unsqueeze(2) - given.events.unsqueeze(1)
        bias = bias + given.time_bias[time_buckets(gaps, len(given.time_bias))].unsqueeze(1)  # (B, 1, T, T)
    weights = F.silu(given.query @ given.key.transpose(2, 3) + bias) * (before >= 0).to(given.query.dtype)
    return weights @ given.value * given.scale
