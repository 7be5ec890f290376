"""One process at a time: a second one waits, and then finds the work done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from seqbench import console
from seqbench.errors import StorageError, storage_error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, made if need be; `what` tells a user who waits what for.

    The operating system frees the lock of a process that dies, so a stale file blocks nobody.

    Raises:
        StorageError: the lock file cannot be written, or its file system has no locks.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.note(f"Waiting for another process: {what} …")
            lock.acquire()
    except OSError as error:
        raise storage_error(error, path) from error
    except NotImplementedError as error:  # of older releases of filelock
        raise StorageError(
            f"Cannot lock {path}: its file system has no locks.",
            hint="Choose a folder elsewhere with --results or --home, or `pip install -U filelock`.",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` if no other process does, and yield whether it is held.

    Where its file system has no locks, nobody can hold it: that is left to whoever needs it held, as in `locked`.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        pass
    try:
        yield True
    finally:
        lock.release()
