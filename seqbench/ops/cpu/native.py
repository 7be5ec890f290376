"""C++ kernels, compiled with the system compiler when one is first needed and kept in the user's cache.

The sources know nothing of torch or Python: one compiled library serves every version of either. Importing this module
compiles nothing.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import platformdirs

import seqbench
from seqbench import paths
from seqbench.errors import SeqbenchError
from seqbench.files import replacing
from seqbench.locking import locked

CACHE_VARIABLE = "SEQBENCH_KERNEL_CACHE"
COMPILERS = ("c++", "g++", "clang++")
INSTALL = "install one, e.g. `apt install g++`, or name one in CXX"
# Vectorised by -O2 as well as by -O3, in half the time. No fused multiply-adds but the explicit ones, and nothing of
# -ffast-math: zeros, subnormals, infinities and NaN mean what they mean. Nobody looks at errno or
# the floating-point exceptions: a root is vectorised only if it may leave the one alone, and a choice between two
# results only if computing both may raise the other.
FLAGS = (
    *("-std=c++17", "-O2", "-ftree-vectorize", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"),
    *("-fno-exceptions", "-fno-rtti", "-shared", "-fPIC", "-pthread"),
)
THIS_PROCESSOR = "-march=native"  # not known to every compiler
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Kernel:
    """A loaded library, or the reason why there is none."""

    library: ctypes.CDLL | None = None
    reason: str | None = None


class _CannotBuild(Exception):
    """Why there is no library."""


@cache
def load(name: str) -> Kernel:
    """The library of kernels/<name>.cpp, compiled if the cache has none; the answer holds for this process."""
    try:
        return Kernel(library=ctypes.CDLL(str(_build(paths.shipped("kernels") / f"{name}.cpp"))))
    except _CannotBuild as error:
        return Kernel(reason=str(error))
    except SeqbenchError as error:  # of the cache folder
        return Kernel(reason=f"{error.message} Choose another folder with {CACHE_VARIABLE}.")
    except OSError as error:
        return Kernel(reason=f"the compiled kernel cannot be loaded: {error}")


def cache_folder() -> Path:
    """Where compiled kernels are kept: SEQBENCH_KERNEL_CACHE, or a folder of the user.

    Not below SEQBENCH_HOME, which users may share: what is loaded from here runs.
    """
    if configured := os.environ.get(CACHE_VARIABLE):
        return Path(configured).expanduser()
    return Path(platformdirs.user_cache_dir("seqbench", appauthor=False)) / "kernels"


def _build(source: Path) -> Path:
    """Path of the compiled `source`: for this processor, or else for any of its kind.

    The latter has a name of its own. A compiler that failed for a passing reason is asked again by the next process.
    """
    compiler = _compiler()
    features = _processor_features()
    if features is not None:
        with suppress(_CannotBuild):
            return _built(source, compiler, (*FLAGS, THIS_PROCESSOR), features)
    return _built(source, compiler, FLAGS, "")


def _built(source: Path, compiler: list[str], flags: tuple[str, ...], features: str) -> Path:
    """Path of the compiled `source`; everything that could change the result is part of its name."""
    texts = [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = (*texts, shlex.join(compiler), _version(compiler), shlex.join(flags))
    machine = (platform.system(), platform.machine(), features)
    key = hashlib.sha256("\0".join((*parts, *machine, seqbench.__version__)).encode()).hexdigest()[:20]
    target = cache_folder() / f"{source.stem}-{key}.so"
    if not target.exists():
        with locked(target.with_suffix(".lock"), f"it is compiling {source.name}"):
            if not target.exists():
                with replacing(target) as temporary:
                    _compile(compiler, flags, source, temporary)
    return target


def _compile(compiler: list[str], flags: tuple[str, ...], source: Path, output: Path) -> None:
    done = _run([*compiler, *flags, "-o", str(output), str(source)])
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        said = next((line for line in lines if "error" in line), lines[0])
        raise _CannotBuild(f"`{shlex.join(compiler)}` could not compile {source.name}: {said}; {INSTALL}")


def _compiler() -> list[str]:
    """The command that compiles C++: CXX, or the first that is installed."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(chosen[0]) is None:
            raise _CannotBuild(f"the C++ compiler that CXX names, '{chosen[0]}', is not installed")
        return chosen
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise _CannotBuild(f"no C++ compiler found (tried {', '.join(COMPILERS)}); {INSTALL}")


def _version(compiler: list[str]) -> str:
    done = _run([*compiler, "--version"])
    if done.returncode != 0:
        raise _CannotBuild(f"`{shlex.join(compiler)} --version` failed; {INSTALL}")
    return done.stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise _CannotBuild(f"`{command[0]}` could not be run: {error}") from error


def _processor_features() -> str | None:
    """What -march=native depends on: a cache may be shared by machines with different processors. None if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    # The words differ between architectures; on all of them they are the same for all cores that matter here.
    names = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part", "isa")
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in names})) or None
