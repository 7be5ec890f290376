"""What the store knows of searches: the trials of each model, and the best of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seqbench.data.prepared import PreparedDataset
from seqbench.protocol import Protocol
from seqbench.results import Definition, Record

# Of TrainingConfig: how long and how closely a training is watched, which a search and a run may differ in.
LIMITS = ("epochs", "validate_users", "validate_every")


@dataclass(frozen=True)
class Search:
    """All trials of one model on one data set under one protocol, whichever commands made them.

    Args:
        trials: at least one; by number.
    """

    trials: tuple[Record, ...]

    @property
    def model(self) -> str:
        """Return the model's name."""
        return self.trials[0].definition.model

    @property
    def dataset(self) -> str:
        """Return the data set's name."""
        return self.trials[0].definition.dataset

    @property
    def best(self) -> Record | None:
        """Return the trial with the best validation figure, the first of equal ones; None if all of them failed."""
        ended = [record for record in self.trials if record.trial and not record.trial["pruned"] and record.validation]
        return max(ended, key=validation_of, default=None)

    @property
    def default(self) -> Record | None:
        """Return the trial with the model's own defaults."""
        return next((record for record in self.trials if record.trial and record.trial["number"] == 0), None)

    @property
    def pruned(self) -> int:
        """Return how many trials were ended before their time."""
        return sum(record.trial is not None and record.trial["pruned"] for record in self.trials)

    @property
    def failed(self) -> int:
        """Return how many trials gave no figure."""
        return sum(not record.validation for record in self.trials)

    @property
    def seconds(self) -> float:
        """Return what all trials together took."""
        return sum(record.seconds for record in self.trials)

    @property
    def searched(self) -> list[str]:
        """Return the fields that were searched."""
        return list(
            dict.fromkeys(field for record in self.trials if record.trial for field in record.trial["settings"])
        )

    def chose(self, definition: Definition) -> bool:
        """Return whether a cell has the settings of the best trial."""
        return self.best is not None and settings_of(definition) == settings_of(self.best.definition)


def on(records: Iterable[Record], prepared: PreparedDataset, protocol: Protocol) -> list[Record]:
    """Return the records of one data set under one protocol."""
    wanted = (prepared.name, prepared.fingerprint, protocol)
    cells = [(record, record.definition) for record in records]
    return [record for record, cell in cells if (cell.dataset, cell.fingerprint, cell.protocol) == wanted]


def searches(records: Iterable[Record]) -> dict[str, Search]:
    """Return the searches by model, of records of one data set under one protocol.

    Of a model whose code has changed meanwhile, only trials of the code that was tried last count.
    """
    by_model: dict[str, list[Record]] = {}
    for record in records:
        if record.trial is not None:
            by_model.setdefault(record.definition.model, []).append(record)
    found = {}
    for model, trials in by_model.items():
        last = code_of(max(trials, key=lambda record: record.started).definition)
        same = [record for record in trials if code_of(record.definition) == last]
        found[model] = Search(tuple(sorted(same, key=_order)))
    return found


def settings_of(definition: Definition) -> dict[str, Any]:
    """Return all settings of a cell, but for its limits: field → value."""
    training = {name: value for name, value in (definition.training or {}).items() if name not in LIMITS}
    return {**definition.config, **training}


def code_of(definition: Definition) -> tuple[str | None, int]:
    """Return what stands for the code that a cell was run with."""
    return definition.source, definition.revision


def validation_of(record: Record) -> float:
    """Return the validation figure that a trial is judged by."""
    return record.validation[record.definition.protocol.selection]


def curve_of(record: Record) -> tuple[float, ...]:
    """Return the best validation figure after each epoch."""
    curve: list[float] = []
    for entry in record.training["history"] if record.training else ():
        value = -1.0 if entry["validation"] is None else entry["validation"]
        curve.append(max(value, curve[-1]) if curve else value)
    return tuple(curve)


def _order(record: Record) -> tuple[int, str]:
    assert record.trial is not None
    return record.trial["number"], record.started


Searches = Mapping[str, Search]  # by model
