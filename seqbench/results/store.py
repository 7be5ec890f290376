"""Where records lie, and how they get there and back."""

import dataclasses
from pathlib import Path

from seqbench.files import write_json
from seqbench.results.records import Definition, Record, UnreadableRecord, read_record

RECORD = "record.json"
RANKS = "ranks.parquet"
TOP = "top.parquet"
SAMPLES = "samples.parquet"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"


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
