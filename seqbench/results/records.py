"""What a record holds: the definition of a cell, and what came of it.

A record may come from anybody, so what is read is checked: its size, its nesting, and the type of every field.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from seqbench import paths
from seqbench.errors import SeqbenchError
from seqbench.files import read_regular
from seqbench.protocol import Protocol
from seqbench.typed import build

SCHEMA_VERSION = 5

# Raised by a change of code that makes the same definition compute other numbers (data order, training, ranking):
# results from before it stay readable, but no longer count as finished.
REVISION = 2

# Larger than any record: one of 10,000 epochs has 3 MB.
LARGEST_RECORD = 64 << 20

FULL = "fp32"  # the precision that is meant where nothing is said

# The parts of a definition that become folders: no path of somebody else's record leads out of the store.
FOLDER_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,200}")

Part = Literal["training", "latency"]  # of the cost, that can be measured again

FailureKind = Literal["out-of-memory", "killed", "non-finite", "error", "storage"]
OF_SETTINGS: tuple[FailureKind, ...] = ("out-of-memory", "non-finite")  # failures that a search takes for an answer


class Conditions(TypedDict, total=False):
    """What went on beside a measurement (seqbench.measuring.quiet), and the energy of the device meanwhile."""

    seconds: float
    busy_cores: float  # that other processes kept busy on average; absent if it was too short to tell
    disturbances: list[str]  # in words; none: the machine was quiet
    joules: float | None  # None: there is no counter that can be read
    joules_coarse: bool  # the time was shorter than the counter's period: it says little


class LatencyPoint(TypedDict):
    """One point of latency against length."""

    mode: str  # a name of seqbench.measuring.grid.MODES
    batch: int
    length: int | None  # None, in records of schema 3 and before: the same at every length
    p50_ms: float
    p95_ms: float | None  # None: too few samples
    p99_ms: float | None
    repeats: int
    state_bytes: NotRequired[int]  # of each history, of modes that have a state
    joules_per_1000: NotRequired[float | None]  # recommendations; absent or None without a counter
    conditions: NotRequired[Conditions]
    unsteady: NotRequired[bool]  # the middle half of the samples is wide: its median says little


class SkippedPoint(TypedDict):
    """A point that was not measured, and why."""

    mode: str
    batch: int
    length: int | None
    reason: str


class Again(TypedDict):
    """When a part of the cost was measured again, and by which code."""

    started: str  # ISO 8601, UTC
    seqbench: str
    git_commit: str | None


class Sharing(TypedDict):
    """What was done so that other programs on the same cores did not stop the threads (seqbench.measuring.sharing)."""

    watched: bool  # false: one thread, another thread pool than libgomp, or the user's own OMP settings
    seconds: float  # in which threads were kept on the cores that others left, and slept instead of spinning


class Cost(TypedDict, total=False):
    """What a cell cost. Rates and times of training are medians over epochs, None for models that only count."""

    parameters: int
    parameters_without_items: int  # those that there are for each item left out
    whole_flops: int  # of encoding and scoring one history of the longest length (seqbench.measuring.size)
    step_flops: int  # of appending one item and scoring; absent for models that cannot
    state_bytes: int  # of what an incremental model keeps of such a history
    train_interactions_per_second: float | None
    train_sequences_per_second: float | None
    epoch_seconds: float | None
    epoch_joules: float | None  # of the device, whoever used it; median over epochs; absent without a counter
    epoch_joules_coarse: bool  # epochs are shorter than the counter's period
    fit_seconds: float
    peak_memory_bytes: int  # on a GPU that of torch's allocator, on a CPU resident memory above what was held before
    reserved_memory_bytes: int | None  # that the allocator took from the GPU
    process_memory_bytes: int | None  # all that the process held: on a GPU as its driver says, on a CPU the peak
    sharing: Sharing
    conditions: Conditions  # of the epochs behind the rates and the time of an epoch
    fit_conditions: Conditions  # of the whole training; another only if costs were measured again
    again: dict[str, Again]  # part that was measured again → when
    latency_grid: dict[str, Any]  # the points that were asked for
    latency_from: str  # key of the cell that was measured instead, of another seed on the same machine
    latency: list[LatencyPoint]
    latency_skipped: list[SkippedPoint]


class EpochEntry(TypedDict):
    """What one epoch gave and took; times in seconds."""

    epoch: int
    loss: float
    validation: float | None  # None: it was not validated
    train_seconds: float
    evaluate_seconds: float
    timed_interactions: int  # of the steps that count for throughput
    timed_sequences: int
    timed_seconds: float
    joules: NotRequired[float | None]  # of training; None without a counter


class Training(TypedDict):
    """How training by gradient went."""

    epochs: int
    best_epoch: int
    stopped_early: bool
    seconds_to_best: float
    history: list[EpochEntry]


class DatasetFacts(TypedDict, total=False):
    """What the cell was run on."""

    title: str
    users: int
    items: int
    interactions: int
    filters: str  # in words
    item_ids: str  # SHA-256 of the raw ids beside the weights (seqbench.inference.items); absent without weights
    evaluated_users: int
    untrained_targets: int  # of the test, whose item is in no training part
    training_pairs: int
    count_mismatch: str | None  # in words, where the prepared counts differ from the published ones
    times: bool  # whether the data set has times, and not only an order; absent in records of schema 4 and before
    ceiling: dict[str, float] | None  # metric → value, where the data-generating process is known


class Environment(TypedDict, total=False):
    """The machine and the installation."""

    machine: str
    cpu: str
    cores: int
    memory_bytes: int
    device_name: str
    device_memory_bytes: int | None
    threads: int
    os: str
    python: str
    torch: str
    numpy: str
    cuda: str | None
    tf32_matmul: bool | None
    tf32_cudnn: bool | None
    driver: str | None
    seqbench: str
    git_commit: str | None
    operators: dict[str, str]  # operator → backend that ran it


class Failure(TypedDict):
    """Why a cell has no figures."""

    kind: str  # FailureKind; those of later versions are shown as they are
    message: str


class Imported(TypedDict):
    """Where the figures of another program come from."""

    file: str  # its name
    sha256: str
    depth: int | None  # places that are known of every user; None: the rank itself


class Trial(TypedDict):
    """What a cell was in a search for better settings (seqbench.tuning)."""

    number: int  # in its search; 0 has the model's own defaults
    settings: dict[str, Any]  # those that were searched
    sampler: str  # a name of seqbench.tuning.samplers.SAMPLERS
    pruned: bool  # ended before its time, since half of the trials before it were better


class Changes(TypedDict, total=False):
    """The settings that differ from the model's defaults, by section of the definition."""

    config: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True)
class Definition:
    """Hold everything that decides what a cell computes. Equal definitions share one folder."""

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
    precision: str = FULL  # a name of seqbench.precision.PRECISIONS
    world_size: int = 1  # processes that train it together: dropout is another with each, and sums are cut elsewhere

    @property
    def key(self) -> str:
        """Return 16 hexadecimal digits that name the cell."""
        fields = dataclasses.asdict(self)
        # What there was no choice of at first is left out, so that cells from before keep their names.
        if self.precision == FULL:
            del fields["precision"]
        if self.world_size == 1:
            del fields["world_size"]
        if not self.protocol.request_time:
            del fields["protocol"]["request_time"]
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def folder(self, results: Path) -> Path:
        """Return where the cell's files live below the results folder."""
        return results / paths.folder_name(self.dataset) / self.model / self.key

    def label(self) -> str:
        """Return a short name for progress lines."""
        return f"{self.dataset} / {self.model} / seed {self.seed}"

    @classmethod
    def from_dict(cls, fields: Any) -> "Definition":
        """Return the definition that `dataclasses.asdict` made these fields of.

        Raises:
            ValueError: they are not those of a definition.
        """
        return build(cls, fields, "definition")


@dataclass
class Record:
    """The outcome of one cell, as stored in record.json."""

    definition: Definition
    status: Literal["finished", "failed", "trial"]  # a trial is trained and validated, and never tested
    started: str  # ISO 8601, UTC
    seconds: float  # wall time, all sessions of a resumed cell together
    environment: Environment
    dataset: DatasetFacts = field(default_factory=DatasetFacts)
    accuracy: dict[str, float] = field(default_factory=dict)  # metric → mean over test users
    validation: dict[str, float] = field(default_factory=dict)  # metric → mean over validation users
    training: Training | None = None  # None for models that only count
    cost: Cost = field(default_factory=Cost)
    failure: Failure | None = None  # None when finished
    changes: Changes | None = None  # None in records of schema 1, which did not keep them
    imported: Imported | None = None  # None for cells that were run here
    uses_times: bool = False  # whether the model was given times; of requests, too, if the protocol says so
    trial: Trial | None = None  # what it was in a search; the cell may have been finished before or after
    schema_version: int = SCHEMA_VERSION

    @property
    def finished(self) -> bool:
        """Return whether the cell ran to its end, and was tested."""
        return self.status == "finished"

    @property
    def tried(self) -> bool:
        """Return whether it is known what a search learns of the cell: repeating it would give the same."""
        return self.status != "failed" or (self.failure is not None and self.failure["kind"] in OF_SETTINGS)


class UnreadableRecord(SeqbenchError):
    """A record.json that this version cannot use: damaged, or of a newer schema."""

    def __init__(self, message: str, hint: str, *, newer: bool = False) -> None:
        super().__init__(message, hint)
        self.newer = newer


def read_record(path: Path) -> Record:
    """Read one record.json.

    Raises:
        UnreadableRecord: it is damaged, or a newer seqbench wrote it.
    """
    try:
        fields = json.loads(read_regular(path, LARGEST_RECORD), parse_constant=_no_constant)
        version = fields["schema_version"] if isinstance(fields, dict) else None
        if type(version) is not int:
            raise ValueError("it has no schema_version")
        if version > SCHEMA_VERSION:
            raise UnreadableRecord(
                f"Record {path} was written by a newer seqbench (schema {version}; this one knows up to "
                f"{SCHEMA_VERSION}).",
                hint="Upgrade with `pip install --upgrade seqbench`, or use another folder with --results.",
                newer=True,
            )
        record = build(Record, fields, "record")
        for name in (record.definition.dataset, record.definition.model):
            if not FOLDER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a folder")
        return record
    except (OSError, ValueError, KeyError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error) or "nested too deeply"
        raise UnreadableRecord(
            f"Record {path} is damaged ({reason.partition(chr(10))[0]}).",
            hint="Repeat `seqbench run` with the same options to measure this cell again.",
        ) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
