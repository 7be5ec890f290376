"""How a scan's time is cut into chunks: the one rule that chooses between its two forms.

*Channel-parallel* is a thread per channel that walks through all of time; every byte moves once. A thread has 128
bytes of two operands in flight (kernels/scan.cuh), and memory needs about 2 MB in flight to be busy (bandwidth times
latency: 3.3 TB/s times 0.6 µs on an H100), so it takes about 128 such threads per multiprocessor.

*Chunked* cuts time and reads the inputs twice, 5/3 of the traffic: worth it with fewer than about 60% of those threads,
and only if time is long enough for its three launches to be hidden.

These numbers are derived, not measured.

Shapes: B batch, T time, D channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seqbench.ops.precision import HALF

BLOCK = 64  # threads of a block, as in kernels/scan.cuh
CHANNEL_PARALLEL_FROM = 64  # threads per multiprocessor
CHUNKED_FROM = 512  # steps
THREADS = 384  # per multiprocessor, which the chunked form aims at: all that fit
STEPS = 16  # chunks are multiples of the steps that a thread reads at a time


@dataclass(frozen=True)
class Cut:
    """`chunks` chunks of `size` steps, the last one perhaps shorter; one chunk is the channel-parallel form."""

    chunks: int
    size: int

    def buffers(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What each chunk does to a state that enters it, for sequences (B, T, D) such as `like`.

        Returns:
            (B, chunks, D) products of the gates, and (B, chunks, D) states that the chunks make of zero, which the
            kernels later replace by the states that enter them.
        """
        B, _, D = like.shape
        dtype = torch.float32 if like.dtype in HALF else like.dtype
        shape = (B, self.chunks, D)
        products = torch.empty(shape, dtype=dtype, device=like.device)
        return products, torch.empty(shape, dtype=dtype, device=like.device)


def cut(channels: int, T: int, processors: int) -> Cut:
    """How to cut T steps.

    Args:
        channels: B·D.
        T: time steps, at least 1.
        processors: multiprocessors of the GPU.
    """
    if T < CHUNKED_FROM or channels >= CHANNEL_PARALLEL_FROM * processors:
        return Cut(1, T)
    # Between the passes the states that enter the chunks are found chunk by chunk: with K steps a chunk the three take
    # 2·K + T/K steps one after the other, least at K = √(T/2).
    wanted = min(-(-THREADS * processors // channels), math.isqrt(2 * T))
    size = -(-T // wanted)
    size = -(-size // STEPS) * STEPS
    return Cut(-(-T // size), size)
