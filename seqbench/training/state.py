"""Where a training stands, besides its tensors, and what follows from that."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from seqbench.models.base import TrainingConfig
from seqbench.results.records import Cost, EpochEntry, Training
from seqbench.typed import build

LARGEST = 1 << 63


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave and took. Times in seconds; interactions are trained target positions."""

    epoch: int
    loss: float
    validation: float | None  # None: not validated after this epoch
    train_seconds: float
    evaluate_seconds: float
    timed_interactions: int  # of the steps that count for throughput
    timed_sequences: int
    timed_seconds: float
    joules: float | None = None  # that training took; None without a counter


@dataclass
class TrainingState:
    """Where a training stands, besides its tensors."""

    epoch: int = 0  # finished epochs
    best_epoch: int = 0
    best: float = -1.0
    seconds: float = 0.0  # wall time of all processes that worked on it
    peak_memory: int = 0  # bytes, largest of all processes that worked on it
    history: list[Epoch] = field(default_factory=list)

    def add(self, entry: Epoch) -> bool:
        """Append a finished epoch; return whether it is the best so far."""
        self.history.append(entry)
        self.epoch = entry.epoch
        self.seconds += entry.train_seconds + entry.evaluate_seconds
        if entry.validation is None or entry.validation <= self.best:
            return False
        self.best, self.best_epoch = entry.validation, entry.epoch
        return True

    def stopped_early(self, training: TrainingConfig) -> bool:
        """Return whether the validation metric has not improved for `patience` epochs, by the last validation."""
        last = max((entry.epoch for entry in self.history if entry.validation is not None), default=0)
        return last - self.best_epoch >= training.patience

    def below(self, bars: Sequence[float]) -> bool:
        """Return whether the best validation figure so far is below the bar of the last epoch; bars are by epoch."""
        return 0 < self.epoch <= len(bars) and self.best < bars[self.epoch - 1]

    def summary(self, training: TrainingConfig) -> Training:
        """Return the record's `training` section."""
        return {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early(training),
            "seconds_to_best": sum(
                entry.train_seconds + entry.evaluate_seconds for entry in self.history[: self.best_epoch]
            ),
            "history": [cast(EpochEntry, asdict(entry)) for entry in self.history],
        }

    def throughput(self) -> Cost:
        """Return medians over epochs: interactions/s and sequences/s of steady-state steps, seconds and joules."""
        timed = [entry for entry in self.history if entry.timed_seconds > 0]

        def median(values: list[float]) -> float | None:
            return statistics.median(values) if values else None

        return {
            "train_interactions_per_second": median([e.timed_interactions / e.timed_seconds for e in timed]),
            "train_sequences_per_second": median([e.timed_sequences / e.timed_seconds for e in timed]),
            "epoch_seconds": median([entry.train_seconds for entry in self.history]),
            "epoch_joules": median([entry.joules for entry in self.history if entry.joules is not None]),
        }

    @classmethod
    def from_fields(cls, stored: Any) -> "TrainingState":
        """Return the state that `dataclasses.asdict` was taken of.

        Raises:
            ValueError: fields are missing, unknown, of another type, not finite, or contradict each other.
        """
        if isinstance(stored, dict) and (missing := {each.name for each in fields(cls)} - stored.keys()):
            raise ValueError(f"state has no {', '.join(sorted(missing))}")
        state = build(cls, stored, "state")
        counts = [state.seconds, state.peak_memory, state.best_epoch]
        for entry in state.history:
            counts += [value for name, value in asdict(entry).items() if name != "loss" and value is not None]
        if not all(0 <= count < LARGEST for count in counts):
            raise ValueError("a number in it is negative, or too large")
        if [entry.epoch for entry in state.history] != list(range(1, state.epoch + 1)):
            raise ValueError("the history of epochs is not complete")
        if not 0 <= state.best_epoch <= state.epoch:
            raise ValueError("the best epoch is none of them")
        if state.best != (state.history[state.best_epoch - 1].validation if state.best_epoch else cls.best):
            raise ValueError("the best epoch has another validation metric")
        return state
