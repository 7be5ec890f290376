"""A driver for tests: stands for cuda.core and for what torch says of a GPU, and notes what is launched."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench.ops.cuda import launch as gpu
from seqbench.ops.cuda import nvrtc


class Driver:
    """Stands for the module cuda.core. `launches` are (kernel, grid, block, arguments)."""

    def __init__(self) -> None:
        self.launches: list[tuple[str, int, int, tuple[int, ...]]] = []
        self.made_current: list[int] = []

    def Device(self, index: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(set_current=lambda: self.made_current.append(index))

    def LaunchConfig(self, grid: int, block: int) -> tuple[int, int]:  # noqa: N802
        return grid, block

    def launch(self, stream: Any, config: tuple[int, int], kernel: str, *arguments: int) -> None:
        assert stream.__cuda_stream__() == (0, 7)
        self.launches.append((kernel, *config, arguments))


class OnGPU:
    """A tensor as the launching code sees one on GPU 0."""

    def __init__(self, tensor: Tensor) -> None:
        self.device, self.dtype, self.data_ptr = torch.device("cuda", 0), tensor.dtype, tensor.data_ptr


@contextmanager
def driven() -> Iterator[Driver]:
    """Let launches go to a driver that only notes them."""
    driver = Driver()
    stream = SimpleNamespace(cuda_stream=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvrtc, "core", lambda: driver)
        patch.setattr(gpu, "_kernel", lambda source, kernel, element, index: f"{kernel}_{element}")
        patch.setattr(gpu, "_threads", gpu._Threads())
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "current_stream", lambda index: stream)
        gpu._config.cache_clear()
        yield driver
        gpu._config.cache_clear()
