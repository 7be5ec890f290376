"""What is asked of an executor. Orders travel as JSON, between processes and machines."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqbench.measuring.grid import LatencyGrid
from seqbench.results import Definition, Record, finished_record, tried_record
from seqbench.results.records import Part, Trial
from seqbench.typed import build


@dataclass(frozen=True)
class Remeasuring:
    """What of the cost of a finished cell is measured again."""

    parts: tuple[Part, ...]
    epochs: int  # of training


@dataclass(frozen=True)
class Attempt:
    """A trial of a search: the cell is trained and validated, and nothing else.

    Args:
        number, settings, sampler: as in the record's `trial`.
        bars: by epoch, below what best validation figure it is pruned; those of epochs without a bar are negative.
    """

    number: int
    settings: dict[str, Any]
    sampler: str
    bars: tuple[float, ...] = ()

    def trial(self, *, pruned: bool = False) -> Trial:
        """Return the record's `trial`."""
        return Trial(number=self.number, settings=self.settings, sampler=self.sampler, pruned=pruned)


@dataclass(frozen=True)
class Order:
    """One cell to be run, to be tried, or to be measured again."""

    definition: Definition
    model: str  # the reference that its class is loaded from
    home: Path
    results: Path
    device: str  # such as "cpu" or "cuda:1"
    threads: int | None = None  # this and the next three are as in `Slot`
    cores: tuple[int, ...] | None = None
    reserved: int | None = None
    beside: int = 0
    shared: bool = True  # other commands may be about to run it, too: whoever does locks its folder
    force: bool = False  # run it even if it is finished, and from the start
    keep_weights: bool = True
    latency: LatencyGrid = field(default_factory=LatencyGrid)
    until: float | None = None  # seconds since 1970 after which nothing is to be running; None: no such time
    again: Remeasuring | None = None  # None: the cell is run
    attempt: Attempt | None = None  # None: the cell is run to its end, and tested

    @property
    def label(self) -> str:
        """Return a short name for progress lines."""
        definition = self.definition
        if self.attempt is None:
            return definition.label()
        return f"{definition.dataset} / {definition.model} / trial {self.attempt.number}"

    def outcome(self) -> Record | None:
        """Return the stored record if it has what is ordered already."""
        if self.force or self.again is not None:
            return None
        found = finished_record if self.attempt is None else tried_record
        return found(self.results, self.definition)

    def to_json(self) -> str:
        """Return the order as one line."""
        return json.dumps(asdict(self) | {"home": str(self.home), "results": str(self.results)})

    @classmethod
    def from_json(cls, text: str) -> "Order":
        """Return the order that `to_json` wrote.

        Raises:
            ValueError: it is not one.
        """
        fields = json.loads(text)
        cores = fields.pop("cores")
        return cls(
            cores=None if cores is None else tuple(cores),
            definition=Definition.from_dict(fields.pop("definition")),
            latency=build(LatencyGrid, fields.pop("latency"), "latency"),
            again=None if (again := fields.pop("again")) is None else build(Remeasuring, again, "again"),
            attempt=None if (attempt := fields.pop("attempt")) is None else build(Attempt, attempt, "attempt"),
            home=Path(fields.pop("home")),
            results=Path(fields.pop("results")),
            **fields,
        )
