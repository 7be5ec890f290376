"""Atomic writes: a reader sees the old file or the new one, never half of either."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqbench.errors import storage_error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    On any failure the temporary file is removed and `path` is as it was.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a path to write what the user asked for at `path`.

    A regular file is replaced, and a new one made, as by `replacing`. What is something else, a link, a pipe or a
    device, stays what it is: the bytes are written into it once they are complete.

    Raises:
        StorageError: the disk is full, or `path` cannot be written to.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            try:
                with temporary.open("rb") as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except OSError as error:
                raise storage_error(error, path) from error
        return
    with replacing(path) as temporary:
        yield temporary


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes: a pipe would block, and a device need not end.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is something else than a file, or larger.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a regular file")
        if about.st_size > limit:
            raise ValueError(f"it has {about.st_size:,} bytes, more than {limit:,}")
        return stream.read(limit)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
