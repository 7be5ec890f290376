"""The memory that tensors leave behind, kept for the tensors that follow."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the rest of this process; without glibc nothing changes.

    By default it maps every large tensor anew and returns it when it is freed, so that each training step waits for
    the system to clear the same pages again.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
