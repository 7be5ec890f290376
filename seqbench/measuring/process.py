"""Bringing a process into the same state before anything is measured in it, whatever it did before."""

import ctypes
import sys

import torch
from torch import nn

# Blocks from this size on come from the system and go back to it, and so does free memory at the end of the heap.
# glibc moves both with the largest block freed so far: the same call then takes up to twice as long in a process that
# has not freed a large one before, which is given its buffers page by page each time.
MMAP_THRESHOLD = 32 << 20
TRIM_THRESHOLD = 256 << 20

# Names of mallopt's parameters in malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def fix_allocator() -> bool:
    """Fix the thresholds of glibc's allocator; return whether there is such an allocator."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD))


def load_optimizer() -> None:
    """Take a step of the optimizer that models are trained with: torch imports 70 MiB of modules for the first one."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.sum().backward()
    optimizer.step()
