"""Columns that do not fit in memory: files, mapped as arrays.

Within `spilling`, whatever makes a column of many rows asks here for its memory. Past the limit it is a file, written
and read from front to back, a part at a time, and sorted by dealing rows to parts that fit. Everything else is the same
code on the same arrays, so that what comes out is the same.

The files have no names: they are gone with the process, however it ends.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray

from seqbench import console
from seqbench.errors import UsageError, storage_error

ROW = 48  # bytes that preparing takes at most for each row, where all are in memory
SHARE = 0.5  # of the memory that is free, where no limit is given
LEAST = 1 << 16  # rows that are worked on together in any case
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass
class Spill:
    """Where columns go that do not fit, and how much fits."""

    folder: Path
    memory: int  # bytes
    told: bool = field(default=False)

    def rows(self) -> int:
        """Return how many rows may be worked on in memory at once."""
        return max(LEAST, self.memory // (4 * ROW))


_current: ContextVar[Spill | None] = ContextVar("where columns go that do not fit", default=None)


def parse_memory(text: str) -> int:
    """Return bytes of words such as 3G or 500M, in units of 1024.

    Raises:
        UsageError: it is something else, or nothing.
    """
    number, unit = text.strip().upper().removesuffix("B").removesuffix("I"), ""
    if number and number[-1] in UNITS:
        number, unit = number[:-1], number[-1]
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise UsageError(f"--memory takes a size such as 3G or 500M, not '{text}'.")
    return size


@contextmanager
def spilling(folder: Path, memory: int | None = None) -> Iterator[None]:
    """Let columns past a limit be files in a folder, within a `with` block.

    Args:
        folder: is made if it is not there.
        memory: bytes that preparing may take; None for half of what is free.
    """
    limit = int(psutil.virtual_memory().available * SHARE) if memory is None else memory
    token = _current.set(Spill(folder, limit))
    try:
        yield
    finally:
        _current.reset(token)


def rows_at_once() -> int:
    """Return how many rows of spilled columns may be in memory at once."""
    spill = _current.get()
    return LEAST if spill is None else spill.rows()


def too_many(rows: int) -> bool:
    """Return whether so many rows do not fit."""
    spill = _current.get()
    return spill is not None and rows * ROW > spill.memory


def new_file() -> IO[bytes]:
    """Open an empty file without a name.

    Raises:
        StorageError: the folder cannot be written to.
    """
    spill = _current.get()
    assert spill is not None
    if not spill.told:
        spill.told = True
        console.note(f"More rows than --memory {spill.memory / 2**30:.3g}G holds: the others go to disk meanwhile.")
    try:
        spill.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=spill.folder)
    except OSError as error:
        raise storage_error(error, spill.folder) from error


def append(file: IO[bytes], values: NDArray[Any]) -> None:
    """Write values at the end of a file.

    Raises:
        StorageError: the disk is full.
    """
    with _on_disk():
        file.write(np.ascontiguousarray(values).data)


def mapped(file: IO[bytes], rows: int, kind: DTypeLike) -> NDArray[Any]:
    """Return the file as an array of so many rows, which keeps it.

    Raises:
        StorageError: the disk is full.
    """
    if not rows:
        return np.empty(0, kind)
    with _on_disk():
        file.flush()
        size = rows * np.dtype(kind).itemsize
        # A page that the disk has no room for must be missed now: when it is written to, the process would be killed.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.memmap(file, dtype=kind, mode="r+", shape=(rows,))


@contextmanager
def _on_disk() -> Iterator[None]:
    spill = _current.get()
    assert spill is not None
    try:
        yield
    except OSError as error:
        raise storage_error(error, spill.folder) from error


def is_spilled(values: NDArray[Any]) -> bool:
    """Return whether an array is, or is part of, a file."""
    return isinstance(values, np.memmap)


def empty_like(values: NDArray[Any], rows: int, kind: DTypeLike | None = None) -> NDArray[Any]:
    """Return an array of rows that are not set, in a file where `values` are in one."""
    kind = values.dtype if kind is None else kind
    return mapped(new_file(), rows, kind) if is_spilled(values) else np.empty(rows, kind)


def release(columns: Iterable[NDArray[Any]]) -> None:
    """Let go of the memory that holds parts of files; they are read again when they are looked at."""
    for values in columns:
        base: Any = values
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
