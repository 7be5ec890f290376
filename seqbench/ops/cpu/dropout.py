"""Dropout in C++: kernels/dropout.cpp."""

import ctypes

import torch
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, THREADS, function, threads
from seqbench.ops.layout import plain
from seqbench.ops.precision import widened

KERNEL = "dropout"
_ARGUMENTS = (POINTER, POINTER, INTEGER, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_double, *THREADS)


@widened
def forward(x: Tensor, seed: Tensor | int, probability: float) -> Tensor:
    """Zero elements of x with the given probability (rounded to a multiple of 2⁻³²), and scale the others to match.

    Which ones is decided by the seed (64 bits, signed or not) and the element's index alone.
    """
    x = plain(x)
    out = torch.empty(x.shape, dtype=x.dtype)
    dropped = min(round(probability * 2**32), 2**32 - 1)
    scale = 2**32 / (2**32 - dropped) if probability < 1 else 0.0  # even then one hash in 2³² is not below `dropped`
    function(KERNEL, "forward", x.dtype, _ARGUMENTS)(
        *(x.data_ptr(), out.data_ptr(), x.numel(), int(seed) & (2**64 - 1), dropped, scale),
        *threads(),
    )
    return out


backward = forward  # of the gradient, with the same mask
