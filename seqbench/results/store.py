"""Where records lie, and how they get there and back."""

import dataclasses
import shutil
from pathlib import Path

from seqbench.errors import SeqbenchError, storage_error
from seqbench.files import write_json
from seqbench.results.records import Definition, Record, Trial, UnreadableRecord, read_record

RECORD = "record.json"
RANKS = "ranks.parquet"
TOP = "top.parquet"
SAMPLES = "samples.parquet"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
LOCK = ".lock"  # held by the process that runs the cell
CLAIM = ".claim"  # held by the command that has it run


def write_record(results: Path, record: Record) -> None:
    """Store a record atomically; it is the last file of a cell to be written."""
    write_json(record.definition.folder(results) / RECORD, dataclasses.asdict(record))


def finished_record(results: Path, definition: Definition) -> Record | None:
    """Return the stored record of a cell if it can be read and says finished."""
    try:
        record = read_record(definition.folder(results) / RECORD)
    except UnreadableRecord:
        return None
    return record if record.finished else None


def tried_record(results: Path, definition: Definition) -> Record | None:
    """Return the stored record of a cell if a search has its answer in it."""
    try:
        record = read_record(definition.folder(results) / RECORD)
    except UnreadableRecord:
        return None
    return record if record.tried else None


def trial_of(results: Path, definition: Definition) -> Trial | None:
    """Return what a stored cell was in a search, if it was in one."""
    record = tried_record(results, definition)
    return None if record is None else record.trial


def write_failure(results: Path, record: Record) -> None:
    """Store the record of a cell that failed, unless one with figures is there, or one that a newer seqbench wrote."""
    try:
        if read_record(record.definition.folder(results) / RECORD).status != "failed":
            return
    except UnreadableRecord as error:
        if error.newer:
            return
    write_record(results, record)


def load_records(results: Path) -> tuple[list[Record], list[UnreadableRecord]]:
    """Return all records below a results folder in path order, and an error for each that cannot be used."""
    records: list[Record] = []
    errors: list[UnreadableRecord] = []
    for path in sorted(results.glob(f"*/*/*/{RECORD}")):
        try:
            records.append(read_record(path))
        except UnreadableRecord as error:
            errors.append(error)
    return records, errors


def remove_cell(results: Path, folder: Path) -> None:
    """Delete a cell's folder, and the folders above it that are empty then.

    Raises:
        SeqbenchError: it is not a folder of the store, or another process is running the cell.
        StorageError: it cannot be deleted.
    """
    from filelock import FileLock, Timeout

    if folder.is_symlink() or len(folder.resolve().relative_to(results.resolve()).parts) != 3:
        raise SeqbenchError(f"{folder} is not a run's folder in {results}.", hint="Delete it by hand if it should go.")
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            shutil.rmtree(folder)
    except Timeout as error:
        raise SeqbenchError(f"{folder} is being run.", hint="Stop that run first, or wait for its end.") from error
    except OSError as error:
        raise storage_error(error, folder) from error
    for above in (folder.parent, folder.parent.parent):
        if not any(above.iterdir()):
            above.rmdir()
