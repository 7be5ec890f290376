"""Launch kernels on torch's current stream, with tensors as their arguments.

All parameters of all kernels are pointers and 64-bit integers.
"""

import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from seqbench.errors import SeqbenchError
from seqbench.ops.cuda import nvrtc

Argument = int | Tensor | None


def launch(source: str, kernel: str, like: Tensor, *, threads: int, block: int, arguments: Sequence[Argument]) -> None:
    """Queue a kernel on the current stream of a tensor's device.

    Args:
        source: name of the file in kernels/.
        kernel: name of the kernel, without the element type.
        like: its device is where the kernel runs, its dtype the element type.
        threads: how many are needed; whole blocks are started.
        block: threads of a block.
        arguments: of the kernel, in its order; a tensor is its address, None a null pointer.

    Raises:
        SeqbenchError: the source does not compile for this GPU.
    """
    index = like.device.index
    code = _kernel(source, kernel, element(like.dtype), index)
    config = _config(-(-threads // block), block)
    numbers = [
        argument if type(argument) is int else 0 if argument is None else argument.data_ptr()  # type: ignore[union-attr]
        for argument in arguments
    ]
    # Entering a device takes longer than all else here, and it is nearly always the current one.
    if torch.cuda.current_device() == index:
        _queue(index, config, code, numbers)
    else:
        with torch.cuda.device(index):
            _queue(index, config, code, numbers)


def _queue(index: int, config: Any, code: Any, numbers: list[int]) -> None:
    if index not in _threads.contexts:
        # A thread of autograd's may not have a context yet: torch makes one current when it is first needed.
        nvrtc.core().Device(index).set_current()
        _threads.contexts.add(index)
    nvrtc.core().launch(_stream(torch.cuda.current_stream(index).cuda_stream), config, code, *numbers)


class _Threads(threading.local):
    """The GPUs whose context this thread has made current once; from then on torch changes from one to the other."""

    def __init__(self) -> None:
        self.contexts: set[int] = set()


_threads = _Threads()


class _Stream:
    """A stream by its handle, in the words of cuda.core."""

    def __init__(self, handle: int) -> None:
        self.handle_of_torch = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle_of_torch


@lru_cache(maxsize=64)
def _stream(handle: int) -> _Stream:
    return _Stream(handle)


@lru_cache(maxsize=1024)
def _config(grid: int, block: int) -> Any:
    return nvrtc.core().LaunchConfig(grid=grid, block=block)


@cache
def processors(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def cache_bytes(device: torch.device) -> int:
    """Return the size of a GPU's second-level cache."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


@cache
def resident(source: str, kernel: str, element: str, device: torch.device, block: int) -> int:
    """Return how many warps of a kernel a multiprocessor holds, in blocks of so many threads."""
    index = torch.cuda.current_device() if device.index is None else device.index
    compiled = _kernel(source, kernel, element, index)
    blocks: int = compiled.occupancy.max_active_blocks_per_multiprocessor(block, 0)
    return max(blocks, 1) * block // 32


def strided(tensor: Tensor) -> tuple[Tensor, int, int]:
    """Return the tensor, its batch stride and time stride in elements; a (D,) tensor has strides of zero."""
    if tensor.dim() == 1:
        return tensor, 0, 0
    batch, time = tensor.stride()[:2]
    return tensor, batch, time


@cache
def element(dtype: torch.dtype) -> str:
    """Return the name of an element type in the kernels."""
    return str(dtype).removeprefix("torch.")


@cache
def _kernel(source: str, kernel: str, element: str, index: int) -> Any:
    """Return one kernel for one GPU. When the backend was chosen, its source was compiled, but only for float32."""
    kernels = nvrtc.load(source, element, nvrtc.architecture(index))
    if kernels.code is None:
        raise SeqbenchError(
            f"{kernel} of {element} cannot run on GPU {index}: {kernels.reason}", hint="See `seqbench env`."
        )
    return kernels.code.get_kernel(f"{kernel}_{element}")
