"""Compiled kernels in the user's cache: compiled once for all that could change them, checked before they are loaded.

Beside every compiled file stands its SHA-256 digest: one that was cut short or changed is compiled again and never
mapped, since mapping a file that is too short ends the process. What is loaded runs, so a folder or file that another
user owns or can write to is refused.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import seqbench
from seqbench import paths
from seqbench.errors import SeqbenchError, storage_error
from seqbench.files import replacing
from seqbench.locking import locked

T = TypeVar("T")
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class CannotBuild(Exception):
    """Why there is no compiled kernel."""


@dataclass(frozen=True)
class Built(Generic[T]):
    """A compiled and loaded kernel, or the reason why there is none."""

    code: T | None = field(default=None, repr=False)  # printing that of cuda.core would load it
    reason: str | None = None


def attempt(path: Callable[[], Path], load: Callable[[Path], T]) -> Built[T]:
    """Compile and load a kernel; return the reason where that fails.

    Args:
        path: compiles the kernel if need be and returns where it is, see `cached`.
        load: loads it. A file that cannot be loaded is forgotten, so that the next process compiles it again.
    """
    try:
        compiled = path()
        try:
            return Built(load(compiled))
        except (OSError, CannotBuild):
            _digest_file(compiled).unlink(missing_ok=True)
            raise
    except CannotBuild as error:
        return Built(reason=str(error))
    except SeqbenchError as error:  # of the cache folder
        return Built(reason=f"{error.message} Choose another folder with {paths.KERNEL_CACHE_VARIABLE}.")
    except OSError as error:
        return Built(reason=f"the compiled kernel cannot be loaded: {error}")


def cached(source: Path, headers: str, name: str, parts: Iterable[str], compile: Callable[[Path], None]) -> Path:
    """Return the path of the compiled `source`, compiled now unless the cache has it.

    Args:
        source: the file to compile.
        headers: pattern of the files beside it that it may include.
        name: of the compiled file, such as "linear_scan.so"; a digest is put before its suffix.
        parts: what else could change the result, such as the compiler's version and options.
        compile: writes the compiled file to the path that it is given.

    Raises:
        CannotBuild: the compiler failed, or others can write to the cache folder.
        StorageError: the cache folder cannot be written to.
    """
    texts = [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob(headers)))]
    key = hashlib.sha256("\0".join((*texts, *parts, seqbench.__version__)).encode()).hexdigest()[:20]
    stem, _, suffix = name.rpartition(".")
    target = paths.kernel_cache() / f"{stem}-{key}.{suffix}"
    _secure(target.parent)
    if not _intact(target):
        with locked(target.with_suffix(".lock"), f"it is compiling {source.name}"):
            if not _intact(target):
                with replacing(target) as temporary:
                    compile(temporary)
                    temporary.chmod(0o644)  # whatever the umask
                with replacing(_digest_file(target)) as temporary:
                    temporary.write_text(_digest(target), encoding="ascii")
                    temporary.chmod(0o644)
    return target


def _secure(folder: Path) -> None:
    """Make the cache folder, or take from one of ours what others may write; refuse one of another user's."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if _of_others(status) and hasattr(os, "getuid") and status.st_uid == os.getuid():
            folder.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS_MAY_WRITE)
            status = folder.stat()
    except OSError as error:
        raise storage_error(error, folder) from error
    if reason := _of_others(status):
        raise CannotBuild(
            f"the folder of compiled kernels, {folder}, {reason}; choose another with {paths.KERNEL_CACHE_VARIABLE}"
        )


def _intact(compiled: Path) -> bool:
    """Whether a file is as it was compiled, by us."""
    try:
        for path in (compiled, _digest_file(compiled)):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or _of_others(status):
                return False
        return _digest(compiled) == _digest_file(compiled).read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def _of_others(status: os.stat_result) -> str | None:
    """Return how another user could change a file or folder; None if only this user and the administrator can."""
    if not hasattr(os, "getuid"):  # no such notions on this operating system
        return None
    if status.st_uid not in (os.getuid(), 0):
        return "belongs to another user"
    return "can be written to by other users" if status.st_mode & OTHERS_MAY_WRITE else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest_file(compiled: Path) -> Path:
    return compiled.with_name(f"{compiled.name}.sha256")
