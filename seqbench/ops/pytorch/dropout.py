"""Dropout in PyTorch operations, on the CPU."""

import torch
from torch import Tensor


def forward(x: Tensor, seed: Tensor, probability: float) -> Tensor:
    """Zero elements of x with the given probability (rounded to a multiple of 2⁻¹⁶), and scale the others to match.

    Which ones is decided by the seed and the element's index alone.
    """
    generator = torch.Generator().manual_seed(int(seed))
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    dropped = min(round(probability * 65536), 65535)  # of 65,536 equally likely values
    kept = words.view(torch.int16)[: x.numel()] >= dropped - 32768
    mask = kept.to(x.dtype).mul_(65536 / (65536 - dropped)).view(x.shape)
    return torch.mul(x, mask, out=torch.empty(x.shape, dtype=x.dtype))


backward = forward  # of the gradient, with the same mask
