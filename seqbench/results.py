"""The results store: one folder per cell, its path computed from what defines the cell.

    results/<data set>/<model>/<key>/record.json      what was run, on what, what came out
                                    /ranks.parquet    per test user: items ranked better, items tied
                                    /samples.parquet  every raw timing
                                    /checkpoint.safetensors  only while the cell is being trained

A cell whose record says `finished` is never run again unless forced.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import paths
from seqbench.errors import SeqbenchError
from seqbench.files import write_json
from seqbench.protocol import Protocol

SCHEMA_VERSION = 2

# Raised by a change of code that makes the same definition compute other numbers (data order, training, ranking):
# results from before it stay readable, but no longer count as finished.
REVISION = 2

RECORD = "record.json"
RANKS = "ranks.parquet"
SAMPLES = "samples.parquet"
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Definition:
    """Everything that decides what a cell computes. Equal definitions share one folder."""

    dataset: str
    fingerprint: str  # of the prepared interactions
    protocol: Protocol
    model: str
    config: dict[str, Any]  # the model's config dataclass
    training: dict[str, Any] | None  # TrainingConfig; None for models that only count
    seed: int
    device: str  # "cpu" or "cuda"
    backend: str | None  # of the operators; None for models that are not trained by gradient
    source: str | None = None  # of a model that is not part of seqbench: hash of its file, or package and version
    revision: int = REVISION

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the cell."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def folder(self, results: Path) -> Path:
        """Where the cell's files live below the results folder."""
        return results / paths.folder_name(self.dataset) / self.model / self.key

    def label(self) -> str:
        """Short words for progress lines."""
        return f"{self.dataset} / {self.model} / seed {self.seed}"

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Definition":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**fields, "protocol": Protocol(**fields["protocol"])})


@dataclass
class Record:
    """The outcome of one cell, as stored in record.json.

    Sections (all plain JSON values):
        dataset: `users`, `items`, `interactions`, `filters` (words), `evaluated_users`; `count_mismatch` (words) when
            the prepared counts differ from the published ones; `ceiling` (metric → value) where the
            data-generating process is known.
        accuracy, validation: metric name ("hr@10", "ndcg@10", "mrr@10", at 5, 10 and 20) → mean over users.
        training: `epochs`, `best_epoch`, `seconds_to_best`, `stopped_early`, `history` (one entry per epoch).
            None for models that only count.
        cost: `parameters`, `train_interactions_per_second`, `train_sequences_per_second`,
            `epoch_seconds` (medians over epochs; None for models that only count), `fit_seconds`,
            `peak_memory_bytes`, `latency` (list of {mode: "whole" | "step", batch, length, p50_ms, p95_ms,
            p99_ms, repeats}; length None: the same at every length; p95 and p99 None: too few samples),
            `latency_skipped` (list of {mode, batch, length, reason}; length None as above).
        changes: what of the definition's `config` and `training` is not the model's default; None in records of schema
            1, which did not keep it.
        environment: machine, versions, threads, git commit.
        failure: `kind` ("out-of-memory", "killed", "non-finite", "error") and `message`; None when finished.
    """

    definition: Definition
    status: str  # "finished" or "failed"
    started: str  # ISO 8601, UTC
    seconds: float  # wall time, all sessions of a resumed cell together
    environment: dict[str, Any]
    dataset: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, str] | None = None
    changes: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def finished(self) -> bool:
        """Whether the cell ran to its end."""
        return self.status == "finished"


class UnreadableRecord(SeqbenchError):
    """A record.json that this version cannot use: damaged, or of a newer schema."""

    def __init__(self, message: str, hint: str, *, newer: bool = False) -> None:
        super().__init__(message, hint)
        self.newer = newer


def write_record(results: Path, record: Record) -> None:
    """Store a record atomically; it is the last file of a cell to be written."""
    write_json(record.definition.folder(results) / RECORD, dataclasses.asdict(record))


def read_record(path: Path) -> Record:
    """Read one record.json.

    Raises:
        UnreadableRecord: it is damaged, or a newer seqbench wrote it.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = int(fields["schema_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableRecord(
            f"Record {path} is damaged ({type(error).__name__}: {error}).",
            hint="Repeat `seqbench run` with the same options to measure this cell again.",
        ) from error
    if version > SCHEMA_VERSION:
        raise UnreadableRecord(
            f"Record {path} was written by a newer seqbench (schema {version}; this one knows up to {SCHEMA_VERSION}).",
            hint="Upgrade with `pip install --upgrade seqbench`, or use another folder with --results.",
            newer=True,
        )
    try:
        return Record(**{**fields, "definition": Definition.from_dict(fields["definition"])})
    except (KeyError, TypeError) as error:
        raise UnreadableRecord(
            f"Record {path} is damaged ({error}).",
            hint="Repeat `seqbench run` with the same options to measure this cell again.",
        ) from error


def finished_record(results: Path, definition: Definition) -> Record | None:
    """The stored record of a cell if it can be read and says finished."""
    try:
        record = read_record(definition.folder(results) / RECORD)
    except UnreadableRecord:
        return None
    return record if record.finished else None


def load_records(results: Path) -> tuple[list[Record], list[UnreadableRecord]]:
    """All records below a results folder in path order, and an error for each that cannot be used."""
    records: list[Record] = []
    errors: list[UnreadableRecord] = []
    for path in sorted(results.glob(f"*/*/*/{RECORD}")):
        try:
            records.append(read_record(path))
        except UnreadableRecord as error:
            errors.append(error)
    return records, errors
