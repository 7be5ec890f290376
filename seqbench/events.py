"""What happens while a cell is run. Events travel as JSON lines, between processes and machines."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from seqbench.results.records import Changes, Environment
from seqbench.typed import build


@dataclass(frozen=True)
class Begun:
    """The cell is being run here."""

    environment: Environment
    changes: Changes


@dataclass(frozen=True)
class MemoryNeeded:
    """Training is about to begin."""

    held: int  # bytes of the device's memory that it will hold beside the weights, and what batches take
    free: int  # bytes that are free


@dataclass(frozen=True)
class Resumed:
    """An earlier training goes on."""

    epoch: int  # finished epochs


@dataclass(frozen=True)
class Step:
    """Some steps of an epoch are done."""

    epoch: int
    done: int
    total: int


@dataclass(frozen=True)
class EpochEnded:
    """An epoch was trained, and validated."""

    epoch: int
    loss: float
    validation: float | None
    best: float
    best_epoch: int
    train_seconds: float
    evaluate_seconds: float
    interactions_per_second: float | None


@dataclass(frozen=True)
class Pruned:
    """A trial was ended: half of those before it were better after as many epochs."""

    epoch: int
    best: float
    median: float


@dataclass(frozen=True)
class Phase:
    """Something other than training has begun, or goes on."""

    name: str
    done: int = 0
    total: int = 0  # 0: not known


@dataclass(frozen=True)
class Finished:
    """The record is stored."""

    accuracy: dict[str, float]  # of the test; of a trial, of the validation
    seconds: float


@dataclass(frozen=True)
class Paused:
    """The cell was left where it was, because the time would not have been enough for what comes next."""

    epoch: int  # finished epochs, which are kept


@dataclass(frozen=True)
class Failed:
    """The cell ended without a record that is finished."""

    kind: str  # results.records.FailureKind
    message: str
    hint: str | None


Outcome = Finished | Paused | Failed

Event = Begun | MemoryNeeded | Resumed | Step | EpochEnded | Pruned | Phase | Outcome

Listener = Callable[[Event], None]

PROGRESS_SECONDS = 0.2  # between two events that only say how far something is


def following(name: str, emit: Listener) -> Callable[[int, int], None]:
    """Return what tells of a phase, now and then, how much of it is done."""
    shown = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if time.perf_counter() - shown > PROGRESS_SECONDS:
            shown = time.perf_counter()
            emit(Phase(name, done, total))

    return progress


EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (Begun, MemoryNeeded, Resumed, Step, EpochEnded, Pruned, Phase, Finished, Paused, Failed)
}


def to_json(event: Event) -> str:
    """Return an event as one line."""
    return json.dumps({"event": type(event).__name__, **asdict(event)})


def from_json(line: str) -> Event:
    """Return the event of a line.

    Raises:
        ValueError: it is none.
    """
    fields: Any = json.loads(line)
    if not isinstance(fields, dict) or fields.get("event") not in EVENTS:
        raise ValueError(f"not an event: {line[:100]!r}")
    return build(EVENTS[fields.pop("event")], fields, "event")
