"""CUDA kernels, compiled by NVRTC through cuda.core when one is first needed and kept in the user's cache.

NVRTC is a library, which torch's CUDA builds bring along: no CUDA toolkit and no compiler need be installed. The
sources know nothing of torch or Python. Importing this module compiles nothing, nor does it import cuda.core.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from seqbench import paths
from seqbench.ops.build import Built, CannotBuild, attempt, cached

INSTALL = "`pip install 'seqbench[cuda]'`"
STANDARD = "c++17"


@cache
def architecture(index: int) -> str:
    """Return what to compile for on the GPU of that index, such as "sm_90"."""
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


@cache
def load(name: str, element: str, arch: str) -> Built[Any]:
    """Load the kernels of kernels/<name>.cu for one element type, compiled if the cache has none.

    The answer holds for this process.

    Args:
        name: of the source.
        element: name of a dtype of torch, such as "float32".
        arch: what to compile for, see `architecture`.
    """
    source = paths.shipped("kernels") / f"{name}.cu"
    if not source.exists():
        return Built(reason=f"there is no CUDA kernel for {name}")
    return attempt(lambda: build(source, element, arch), _loaded)


def _loaded(path: Path) -> Any:
    code = core().ObjectCode.from_cubin(path.read_bytes())
    try:
        core().Device(torch.cuda.current_device()).set_current()
        _ = code.handle  # loads it, which would otherwise be put off until the first launch
    except Exception as error:  # cuda.core raises its own, which differ between releases
        raise CannotBuild(f"the driver cannot load {path}: {error}") from error
    return code


@cache
def core() -> ModuleType:
    """Return the module that has cuda.core's classes: older releases keep them under another name."""
    for name in ("cuda.core", "cuda.core.experimental"):
        try:
            module = import_module(name)
        except ImportError as error:
            missing = error
        else:
            if hasattr(module, "Program"):
                return module
    raise CannotBuild(f"cuda.core cannot be imported ({missing}); {INSTALL}")


def build(source: Path, element: str, arch: str) -> Path:
    """Return the path of the compiled `source`."""

    def compile(output: Path) -> None:
        output.write_bytes(compile_source(source, element, arch))

    name, parts = f"{source.stem}-{element}-{arch}.cubin", (element, arch, STANDARD, _version())
    return cached(source, "*.cuh", name, parts, compile)


def options(source: Path, element: str, arch: str) -> Any:
    """Return the cuda.core.ProgramOptions that a source is compiled with."""
    return core().ProgramOptions(
        name=source.name,
        arch=arch,
        std=STANDARD,
        define_macro=("ELEMENT", element),
        include_path=str(source.parent),
    )


def compile_source(source: Path, element: str, arch: str) -> bytes:
    """Return the machine code of a source for one element type; raises _CannotBuild with what NVRTC said."""
    try:
        program = core().Program(source.read_text(encoding="utf-8"), "c++", options(source, element, arch))
        return bytes(program.compile("cubin").code)
    except Exception as error:  # cuda.core raises its own, which differ between releases
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = next((line for line in lines if "error:" in line), lines[0])
        raise CannotBuild(f"NVRTC {_version()} could not compile {source.name} for {arch}: {said}") from error


def _version() -> str:
    """Return NVRTC's version."""
    try:
        status, major, minor = import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception as error:  # an ImportError, or whatever cuda.bindings raises if it finds no library to load
        raise CannotBuild(f"NVRTC cannot be loaded ({error}); {INSTALL}") from error
    if int(status) != 0:
        raise CannotBuild(f"NVRTC does not tell its version: {status}")
    return f"{major}.{minor}"
