"""C++ kernels, compiled with the system compiler when one is first needed and kept in the user's cache.

The sources know nothing of torch or Python: one compiled library serves every version of either. Importing this module
compiles nothing.
"""

import ctypes
import os
import platform
import shlex
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

from seqbench import console, paths
from seqbench.ops.build import Built, CannotBuild, attempt, cached

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
TIMEOUT_SECONDS = 120.0
PATIENCE_SECONDS = 10.0  # after which the user is told what is waited for


class _Hangs(CannotBuild):
    """The compiler did not end in time; it is not asked again in this process."""


@cache
def load(name: str) -> Built[ctypes.CDLL]:
    """Load the library of kernels/<name>.cpp, compiled if the cache has none; the answer holds for this process."""
    source = paths.shipped("kernels") / f"{name}.cpp"
    return attempt(lambda: _built(source), lambda path: ctypes.CDLL(str(path)))


def _built(source: Path) -> Path:
    """Return the path of the compiled `source`: for this processor, or else for any of its kind.

    The latter has a name of its own. A compiler that failed for a passing reason is asked again by the next process.
    """
    compiler = _compiler()
    version = _version(compiler)
    features = _processor_features()

    def built(flags: tuple[str, ...], features: str) -> Path:
        machine = (platform.system(), platform.machine(), features)
        parts = (shlex.join(compiler), version, shlex.join(flags), *machine)
        return cached(
            source, "*.h", f"{source.stem}.so", parts, lambda output: _compile(compiler, flags, source, output)
        )

    if features is not None:
        try:
            return built((*FLAGS, THIS_PROCESSOR), features)
        except _Hangs:
            raise
        except CannotBuild:
            pass
    return built(FLAGS, "")


def _compile(compiler: list[str], flags: tuple[str, ...], source: Path, output: Path) -> None:
    done = _run([*compiler, *flags, "-o", str(output), str(source)], f"{source.name} is being compiled")
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        said = next((line for line in lines if "error" in line), lines[0])
        raise CannotBuild(f"`{shlex.join(compiler)}` could not compile {source.name}: {said}; {INSTALL}")


def _compiler() -> list[str]:
    """Return the command that compiles C++: CXX, or the first that is installed."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(chosen[0]) is None:
            raise CannotBuild(f"the C++ compiler that CXX names, '{chosen[0]}', is not installed")
        return chosen
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise CannotBuild(f"no C++ compiler found (tried {', '.join(COMPILERS)}); {INSTALL}")


def _version(compiler: list[str]) -> str:
    done = _run([*compiler, "--version"], f"`{shlex.join(compiler)}` is asked for its version")
    if done.returncode != 0:
        raise CannotBuild(f"`{shlex.join(compiler)} --version` failed; {INSTALL}")
    return done.stdout


_hanging: set[str] = set()  # compilers


def _run(command: list[str], what: str) -> subprocess.CompletedProcess[str]:
    """Run a compiler to its end, in a group of processes of its own, of which none outlives the call."""
    if command[0] in _hanging:
        raise _Hangs(f"`{command[0]}` did not end within {TIMEOUT_SECONDS:.0f} s before; {INSTALL}")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
    except OSError as error:
        raise CannotBuild(f"`{command[0]}` could not be run: {error}") from error
    with process:
        try:
            out, err = _communicate(process, what)
        except BaseException as error:
            _end_group(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            _hanging.add(command[0])
            raise _Hangs(f"`{command[0]}` did not end within {TIMEOUT_SECONDS:.0f} s; {INSTALL}") from error
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _communicate(process: subprocess.Popen[str], what: str) -> tuple[str, str]:
    patience = min(PATIENCE_SECONDS, TIMEOUT_SECONDS)
    try:
        return process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        console.note(f"Waiting for the compiler: {what}; it is ended after {TIMEOUT_SECONDS:.0f} s …")
        return process.communicate(timeout=TIMEOUT_SECONDS - patience)


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a process that has not been waited for yet, and all that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _processor_features() -> str | None:
    """Return what -march=native depends on, since machines with different processors may share a cache; else None."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    # The words differ between architectures; on all of them they are the same for all cores that matter here.
    names = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part", "isa")
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in names})) or None
