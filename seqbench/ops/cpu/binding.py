"""How a torch tensor becomes arguments of a C function, and the threads that every kernel may use."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from seqbench.ops.cpu import native

POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
STRIDED = (POINTER, INTEGER, INTEGER)  # see `strided`
THREADS = (ctypes.c_int, POINTER)  # see `threads`


def strided(tensor: Tensor) -> tuple[int, int, int]:
    """Address, batch stride and time stride in real numbers; a (D,) tensor has strides of zero."""
    parts = 2 if tensor.is_complex() else 1
    batch, time = (0, 0) if tensor.dim() == 1 else tensor.stride()[:2]
    return tensor.data_ptr(), batch * parts, time * parts


def address(tensor: Tensor | None) -> int | None:
    """Address, or None (a null pointer) without a tensor."""
    return None if tensor is None else tensor.data_ptr()


def threads() -> tuple[int, int | None]:
    """How many threads a kernel may use, and the address of the function that starts them."""
    return torch.get_num_threads(), _torch_threads()


@cache
def function(
    kernel: str, direction: str, dtype: torch.dtype, arguments: Sequence[Any], result: Any = None
) -> Callable[..., Any]:
    """The C function <kernel>_<direction>_<dtype> of kernels/<kernel>.cpp."""
    library = native.load(kernel).library
    assert library is not None, "unavailable() was not asked"
    found = library[f"{kernel}_{direction}_{str(dtype).removeprefix('torch.')}"]
    found.argtypes = arguments
    found.restype = result
    return found


@cache
def _torch_threads() -> int | None:
    """Address of the function that starts a parallel region in the OpenMP runtime that torch itself has loaded.

    After an operation of torch its threads keep the cores busy for a while, waiting for the next one; threads of our
    own would compete with them. None if torch was built without OpenMP: the kernel then starts threads itself.
    """
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None
