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
    """How many threads a kernel may use, and the address of the runtime that has them, if any."""
    runtime = _torch_threads()
    return torch.get_num_threads(), None if runtime is None else ctypes.addressof(runtime)


@cache
def function(
    kernel: str, direction: str, dtype: torch.dtype, arguments: Sequence[Any], result: Any = None
) -> Callable[..., Any]:
    """The C function <kernel>_<direction>_<dtype> of kernels/<kernel>.cpp."""
    library = native.load(kernel).code
    assert library is not None, "unavailable() was not asked"
    found = library[f"{kernel}_{direction}_{str(dtype).removeprefix('torch.')}"]
    found.argtypes = arguments
    found.restype = result
    return found


class _Runtime(ctypes.Structure):
    """`Runtime` of kernels/parallel.h."""

    _fields_ = (("parallel", POINTER), ("number", POINTER))


@cache
def _torch_threads() -> _Runtime | None:
    """The functions with which the OpenMP runtime that torch itself has loaded starts threads and numbers them.

    After an operation of torch its threads keep the cores busy for a while, waiting for the next one; threads of our
    own would compete with them. None if torch was built without OpenMP: the kernel then starts threads itself.
    """
    try:
        library = ctypes.CDLL(torch._C.__file__)
        found = (library.GOMP_parallel, library.omp_get_thread_num)
    except (AttributeError, OSError):
        return None
    return _Runtime(*(ctypes.cast(function, POINTER).value for function in found))
