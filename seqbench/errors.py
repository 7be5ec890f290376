"""Errors that a user can act on: what happened, where, and the next command to type."""

import difflib
import errno
from collections.abc import Iterable


class SeqbenchError(Exception):
    """Something failed in a way we understand. `hint` is the next thing to do; exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SeqbenchError):
    """The command line asked for something that does not exist or does not fit; exit code 2."""

    exit_code = 2


class StorageError(SeqbenchError):
    """Files cannot be written: the disk is full, or the folder cannot be written to."""


class OutOfTime(SeqbenchError):
    """What comes next would end after the time that was given; what is done is kept."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"The time is up after epoch {epoch}.", hint="Repeat the command to go on.")
        self.epoch = epoch


class Diverged(SeqbenchError):
    """Training or scoring produced numbers that are not finite."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not finite.",
            hint="If the model is trained by gradient, lower the learning rate: --set MODEL.learning_rate=0.0003.",
        )


def unknown_name(kind: str, name: str, known: Iterable[str], listing: str) -> UsageError:
    """The error for a name that no registry has, with the nearest name that one has."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]}?" if near else ""
    return UsageError(f"{kind} '{name}' is unknown.{guess}", hint=f"See `{listing}`.")


def storage_error(error: OSError, where: object) -> SeqbenchError:
    """Translate an OSError met while writing to `where` into words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk is full: could not write {where}.",
            hint="Free some space, or choose another place (--results and --home set the folders); repeat the command.",
        )
    return StorageError(
        f"Cannot write {where}: {error.strerror or error}.",
        hint="Choose a place that can be written to; --results and --home set the folders.",
    )


def explained(error: Exception) -> SeqbenchError | None:
    """An error in words for the user, or None if only a traceback tells what is wrong."""
    if isinstance(error, SeqbenchError):
        return error
    if out_of_memory(error):
        why = str(error).splitlines()[0] if str(error) else "no reason is given"
        return SeqbenchError(f"Out of memory ({why}).", hint="Ask for less, or free memory, and repeat the command.")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return SeqbenchError(f"{where}{error.strerror or error}.", hint="Check the path and its permissions.")
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch's CPU allocator or its CUDA allocator ran out of memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )
