"""CUDA kernels, compiled by NVRTC through cuda.core when one is first needed and kept in the user's cache.

NVRTC is a library, which torch's CUDA builds bring along: no CUDA toolkit and no compiler need be installed. The
sources know nothing of torch or Python. Importing this module compiles nothing, nor does it import cuda.core.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import seqbench
from seqbench import paths
from seqbench.errors import SeqbenchError
from seqbench.files import replacing
from seqbench.locking import locked
from seqbench.ops.cpu.native import CACHE_VARIABLE, cache_folder

INSTALL = "`pip install 'seqbench[cuda]'`"
STANDARD = "c++17"


@dataclass(frozen=True)
class Kernels:
    """The kernels of one source as a cuda.core.ObjectCode, or the reason why there are none."""

    code: Any = field(default=None, repr=False)  # printing it would load it
    reason: str | None = None


class _CannotBuild(Exception):
    """Why there are no kernels."""


@cache
def architecture(index: int) -> str:
    """What to compile for on the GPU of that index, such as "sm_90"."""
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


@cache
def load(name: str, element: str, arch: str) -> Kernels:
    """The kernels of kernels/<name>.cu for one element type, compiled if the cache has none.

    The answer holds for this process.

    Args:
        name: of the source.
        element: name of a dtype of torch, such as "float32".
        arch: what to compile for, see `architecture`.
    """
    source = paths.shipped("kernels") / f"{name}.cu"
    if not source.exists():
        return Kernels(reason=f"there is no CUDA kernel for {name}")
    try:
        return Kernels(code=_loaded(build(source, element, arch)))
    except _CannotBuild as error:
        return Kernels(reason=str(error))
    except SeqbenchError as error:  # of the cache folder
        return Kernels(reason=f"{error.message} Choose another folder with {CACHE_VARIABLE}.")
    except OSError as error:
        return Kernels(reason=f"the compiled kernels cannot be read: {error}")


def _loaded(path: Path) -> Any:
    code = core().ObjectCode.from_cubin(path.read_bytes())
    try:
        core().Device(torch.cuda.current_device()).set_current()
        _ = code.handle  # loads it, which would otherwise be put off until the first launch
    except Exception as error:  # cuda.core raises its own, which differ between releases
        raise _CannotBuild(f"the driver cannot load {path}: {error}") from error
    return code


@cache
def core() -> ModuleType:
    """The module that has cuda.core's classes: older releases keep them under another name."""
    for name in ("cuda.core", "cuda.core.experimental"):
        try:
            module = import_module(name)
        except ImportError as error:
            missing = error
        else:
            if hasattr(module, "Program"):
                return module
    raise _CannotBuild(f"cuda.core cannot be imported ({missing}); {INSTALL}")


def build(source: Path, element: str, arch: str) -> Path:
    """Path of the compiled `source`; everything that could change the result is part of its name."""
    texts = [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.cuh")))]
    parts = (*texts, element, arch, STANDARD, _version(), seqbench.__version__)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    target = cache_folder() / f"{source.stem}-{element}-{arch}-{key}.cubin"
    if not target.exists():
        with locked(target.with_suffix(".lock"), f"it is compiling {source.name}"):
            if not target.exists():
                with replacing(target) as temporary:
                    temporary.write_bytes(_compile(source, element, arch))
    return target


def options(source: Path, element: str, arch: str) -> Any:
    """Return the cuda.core.ProgramOptions that a source is compiled with."""
    return core().ProgramOptions(
        name=source.name,
        arch=arch,
        std=STANDARD,
        define_macro=("ELEMENT", element),
        include_path=str(source.parent),
    )


def _compile(source: Path, element: str, arch: str) -> bytes:
    try:
        program = core().Program(source.read_text(encoding="utf-8"), "c++", options(source, element, arch))
        return bytes(program.compile("cubin").code)
    except Exception as error:  # cuda.core raises its own, which differ between releases
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = next((line for line in lines if "error:" in line), lines[0])
        raise _CannotBuild(f"NVRTC {_version()} could not compile {source.name} for {arch}: {said}") from error


def _version() -> str:
    """NVRTC's version."""
    try:
        status, major, minor = import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception as error:  # an ImportError, or whatever cuda.bindings raises if it finds no library to load
        raise _CannotBuild(f"NVRTC cannot be loaded ({error}); {INSTALL}") from error
    if int(status) != 0:
        raise _CannotBuild(f"NVRTC does not tell its version: {status}")
    return f"{major}.{minor}"
