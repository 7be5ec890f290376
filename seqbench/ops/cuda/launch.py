"""How a kernel is launched, and how a torch tensor becomes its arguments.

All parameters of all kernels are pointers and 64-bit integers.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from seqbench.errors import SeqbenchError
from seqbench.ops.cuda import nvrtc


def launch(source: str, kernel: str, tensor: Tensor, *, threads: int, block: int, arguments: tuple[int, ...]) -> None:
    """Queue a kernel on the current stream of a tensor's device.

    Args:
        source: name of the file in kernels/.
        kernel: name of the kernel, without the element type.
        tensor: its device is where the kernel runs, its dtype the element type.
        threads: how many are needed; whole blocks are started.
        block: threads of a block.
        arguments: addresses and integers.

    Raises:
        SeqbenchError: the source does not compile for this GPU.
    """
    index = tensor.device.index
    cuda = nvrtc.core()
    with torch.cuda.device(index):
        # A thread of autograd's may not have a context yet: torch makes one current when it is first needed.
        cuda.Device(index).set_current()
        stream = _Stream(torch.cuda.current_stream(index).cuda_stream)
        config = cuda.LaunchConfig(grid=-(-threads // block), block=block)
        cuda.launch(stream, config, _kernel(source, kernel, _element(tensor), index), *arguments)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def strided(tensor: Tensor) -> tuple[int, int, int]:
    """Address, batch stride and time stride in elements; a (D,) tensor has strides of zero."""
    batch, time = (0, 0) if tensor.dim() == 1 else tensor.stride()[:2]
    return tensor.data_ptr(), batch, time


def address(tensor: Tensor | None) -> int:
    """Address, or 0 (a null pointer) without a tensor."""
    return 0 if tensor is None else tensor.data_ptr()


class _Stream:
    """A stream by its handle, in the words of cuda.core."""

    def __init__(self, handle: int) -> None:
        self.handle_of_torch = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle_of_torch


@cache
def _kernel(source: str, kernel: str, element: str, index: int) -> Any:
    """One kernel for one GPU. When the backend was chosen, its source was compiled, but only for float32."""
    kernels = nvrtc.load(source, element, nvrtc.architecture(index))
    if kernels.reason:
        raise SeqbenchError(
            f"{kernel} of {element} cannot run on GPU {index}: {kernels.reason}", hint="See `seqbench env`."
        )
    return kernels.code.get_kernel(f"{kernel}_{element}")


def _element(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
