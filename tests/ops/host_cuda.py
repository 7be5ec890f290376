"""The CUDA kernels on the CPU: compiled as C++ with cuda_shim.h, behind the same launching code as on a GPU."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from torch import Tensor

from seqbench import paths
from seqbench.ops import cuda
from seqbench.ops.cpu.native import CACHE_VARIABLE
from seqbench.ops.cuda import cutting
from seqbench.ops.cuda import launch as gpu

COMPILER = shutil.which("g++") or shutil.which("clang++")
FLAGS = (
    *("-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-x", "c++"),
    *("-U_FORTIFY_SOURCE", "-include", str(Path(__file__).with_name("cuda_shim.h"))),
)
PROCESSORS = 4  # multiprocessors of the GPU that the CPU stands for


@contextmanager
def on_the_host(form: str | None = None) -> Iterator[None]:
    """The backend "cuda" runs on CPU tensors; skips the test where it cannot.

    Args:
        form: "channels" or "chunked" forces that form of the scans; as on a small GPU if None.
    """
    if COMPILER is None or sys.platform != "linux":
        pytest.skip("running CUDA kernels on the CPU needs a C++ compiler and Linux")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "unavailable", lambda operator, device: None)
        patch.setattr(gpu, "launch", _launch)
        patch.setattr(gpu, "processors", lambda device: PROCESSORS)
        force(form, patch)
        yield


def force(form: str | None, patch: pytest.MonkeyPatch) -> None:
    """Make the scans use the form "channels" or "chunked", whatever the shape; None is the rule."""
    if form == "channels":
        patch.setattr(cutting, "CHANNEL_PARALLEL_FROM", 0)
    elif form == "chunked":
        patch.setattr(cutting, "CHANNEL_PARALLEL_FROM", 1 << 40)
        patch.setattr(cutting, "CHUNKED_FROM", 0)
        patch.setattr(cutting, "STEPS", 1)


def _launch(source: str, kernel: str, tensor: Tensor, *, threads: int, block: int, arguments: tuple[int, ...]) -> None:
    library = _library(source)
    function = ctypes.cast(library[f"{kernel}_{gpu._element(tensor)}"], ctypes.c_void_p)
    assert all(type(argument) is int for argument in arguments)
    values = (ctypes.c_int64 * len(arguments))(*arguments)
    library.run(function, ctypes.c_int64(-(-threads // block)), block, values, len(arguments))


@cache
def _library(source: str) -> ctypes.CDLL:
    assert COMPILER is not None
    output = Path(os.environ[CACHE_VARIABLE]) / f"host-{source}-{os.getpid()}.so"
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [COMPILER, *FLAGS, str(paths.shipped("kernels") / f"{source}.cu"), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(output))
