"""Run the PTX of the CUDA kernels on the CPU: NVRTC compiles the sources, `machine.cpp` carries out the instructions.

What this shows is what the kernels compute as compiled, that they stay inside their tensors, and that their threads do
not race. What it cannot show are ptxas, the driver, streams and time.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torch import Tensor

from seqbench import paths
from seqbench.ops.cuda import nvrtc
from tests.ptx.program import Kernel, kernels

SOURCE = Path(__file__).with_name("machine.cpp")
# Rounding modes change at run time, and the compiler may not fuse what PTX keeps apart.
FLAGS = (
    *("-std=c++20", "-O1", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-frounding-math"),
    *("-shared", "-fPIC"),
)
# What is compiled stays here, named by everything that it depends on.
CACHE = Path(__file__).parents[2] / ".pytest_cache" / "ptx"


class EmulationError(Exception):
    """A kernel did something that it must not: a stray or misaligned access, a race, lanes that parted."""


class _Launch(ctypes.Structure):
    """As `Launch` in machine.cpp."""

    _fields_ = (
        ("parameters", ctypes.c_void_p),
        ("grid", ctypes.c_int64),
        ("block", ctypes.c_int32),
        ("shared_size", ctypes.c_int32),
        ("ranges", ctypes.c_void_p),
        ("range_count", ctypes.c_int32),
        ("ulps", ctypes.c_int32),
        ("races", ctypes.c_int32),
        ("limit", ctypes.c_int64),
        ("loaded", ctypes.c_uint64),
        ("stored", ctypes.c_uint64),
        ("ran", ctypes.c_void_p),
        ("message", ctypes.c_char * 400),
    )


@cache
def unavailable() -> str | None:
    """Return why PTX can be neither made nor run here, or None."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        return "running PTX on the CPU needs Linux and g++"
    try:
        _bindings().nvrtcVersion()
    except Exception as error:  # an ImportError, or whatever cuda.bindings raises if it finds no library to load
        return f"running PTX on the CPU needs NVRTC: {error}"
    return None


def need() -> None:
    """Skip the test where PTX cannot be made or run."""
    if reason := unavailable():
        pytest.skip(reason)


def _bindings() -> ModuleType:
    from cuda.bindings import nvrtc as bindings

    return bindings


def nvrtc_version() -> str:
    """Return NVRTC's version."""
    return str(_bindings().nvrtcVersion()[1:])


def cached(name: str, *texts: str) -> Path:
    """Return where something is kept that follows from the texts."""
    key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]
    CACHE.mkdir(parents=True, exist_ok=True)
    stem, suffix = name.rsplit(".", 1)
    return CACHE / f"{stem}-{key}.{suffix}"


def keep(target: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all."""
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(target)


def ptx(source: str, element: str, arch: str = "sm_90") -> str:
    """Return the PTX of kernels/<source>.cu for one element type, as NVRTC makes it on the way to machine code."""
    path = paths.shipped("kernels") / f"{source}.cu"
    texts = [part.read_text(encoding="utf-8") for part in (path, *sorted(path.parent.glob("*.cuh")))]
    target = cached(f"{source}-{element}-{arch}.ptx", *texts, element, arch, nvrtc_version())
    if not target.exists():
        options = nvrtc.options(path, element, arch.replace("sm_", "compute_"))
        keep(target, _compiled(texts[0], path.name, options.as_bytes("nvrtc")))
    return target.read_text(encoding="utf-8")


def _compiled(text: str, name: str, options: Sequence[bytes]) -> bytes:
    """cuda.core's own `compile("ptx")` asks for a driver."""
    bindings = _bindings()
    status, program = bindings.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], [])
    assert int(status) == 0
    (status,) = bindings.nvrtcCompileProgram(program, len(options), list(options))
    if int(status) != 0:
        log = b" " * bindings.nvrtcGetProgramLogSize(program)[1]
        bindings.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.decode())
    result = b" " * bindings.nvrtcGetPTXSize(program)[1]
    bindings.nvrtcGetPTX(program, result)
    bindings.nvrtcDestroyProgram(program)
    return result.rstrip(b"\0")


@cache
def library() -> ctypes.CDLL:
    """Compile and load machine.cpp."""
    target = cached("machine.so", SOURCE.read_text(encoding="utf-8"), *FLAGS)
    if not target.exists():
        temporary = target.with_suffix(f".{os.getpid()}.so")
        done = subprocess.run(
            ["g++", *FLAGS, str(SOURCE), "-o", str(temporary)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        temporary.replace(target)
    loaded = ctypes.CDLL(str(target))
    loaded.operation_name.restype = loaded.operation_operands.restype = ctypes.c_char_p
    return loaded


@cache
def operations() -> dict[str, tuple[int, str]]:
    """Return opcode → (index, the bytes of each operand as digits)."""
    machine = library()
    return {
        machine.operation_name(index).decode(): (index, machine.operation_operands(index).decode())
        for index in range(machine.operation_count())
    }


@cache
def module(source: str, element: str, arch: str = "sm_90") -> dict[str, Kernel]:
    """Return the kernels of a source for one element type, by name."""
    return kernels(ptx(source, element, arch), operations())


def extent(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first byte and of the one behind its last."""
    assert all(stride >= 0 for stride in tensor.stride())
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size() if tensor.numel() else start


class Run:
    """What one launch did: bytes of global memory loaded and stored, and which instructions ran."""

    def __init__(self, loaded: int, stored: int, ran: np.ndarray) -> None:
        self.loaded, self.stored, self.ran = loaded, stored, ran


def run(
    kernel: Kernel,
    grid: int,
    block: int,
    arguments: Sequence[int | Tensor | None],
    *,
    ulps: int = 0,
    races: bool = False,
    limit: int = 1 << 32,
) -> Run:
    """Run a kernel with its tensors in the CPU's memory.

    Args:
        kernel: see `module`.
        grid: blocks.
        block: threads of a block.
        arguments: tensors, None for a null pointer, and integers.
        ulps: how far approximate instructions are off, in units in the last place.
        races: whether to look for accesses of different threads to the same element.
        limit: instructions that a warp may run.

    Raises:
        EmulationError: the kernel did something that it must not.
    """
    if len(arguments) != len(kernel.parameters):
        raise EmulationError(f"{kernel.name} takes {len(kernel.parameters)} arguments, got {len(arguments)}")
    if block > kernel.largest_block or block % 32:
        raise EmulationError(f"{kernel.name} takes whole warps, up to {kernel.largest_block} threads, got {block}")
    values = [argument.data_ptr() if isinstance(argument, Tensor) else argument or 0 for argument in arguments]
    parameters = np.array([value & (1 << 64) - 1 for value in values], np.uint64)
    ranges = np.array([extent(argument) for argument in arguments if isinstance(argument, Tensor)], np.uint64)
    registers, ran = kernel.registers.copy(), np.zeros(len(kernel.instructions), np.uint8)
    launch = _Launch(
        parameters=parameters.ctypes.data,
        grid=grid,
        block=block,
        shared_size=kernel.shared_size,
        ranges=ranges.ctypes.data,
        range_count=len(ranges),
        ulps=ulps,
        races=races,
        limit=limit,
        ran=ran.ctypes.data,
    )
    program = kernel.instructions
    failed = library().run(
        ctypes.c_void_p(program.ctypes.data),
        ctypes.c_void_p(registers.ctypes.data),
        *kernel.special,
        ctypes.byref(launch),
    )
    if failed:
        raise EmulationError(f"{kernel.name}: {launch.message.decode()}")
    return Run(launch.loaded, launch.stored, ran)
