"""What a cell will take, by the finished cells of its kind in the same store."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

from seqbench.results.records import Definition, Record
from seqbench.results.store import load_records


class Estimates:
    """Time and memory of cells like those that are finished."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._seconds: dict[object, list[float]] = {}
        self._memory: dict[object, list[int]] = {}
        for record in records:
            if record.finished and not record.imported:
                kind = _kind(record.definition)
                epochs = record.training["epochs"] if record.training else 1
                self._seconds.setdefault(kind, []).append(record.seconds / epochs)
                self._memory.setdefault(kind, []).append(record.cost.get("peak_memory_bytes") or 0)

    @classmethod
    def of(cls, results: Path) -> "Estimates":
        """Read the records of a store; what cannot be read is left out."""
        return cls(load_records(results)[0])

    def knows(self, definition: Definition) -> bool:
        """Return whether a cell of this kind is finished."""
        return _kind(definition) in self._seconds

    def epoch(self, definition: Definition) -> float:
        """Return the seconds of a cell for each of its epochs; of all of it where nothing is trained. 0 if unknown."""
        return median(self._seconds.get(_kind(definition), [0.0]))

    def memory(self, definition: Definition) -> int:
        """Return the bytes that a cell needs at most; 0 if unknown."""
        return max(self._memory.get(_kind(definition), [0]))


def _kind(definition: Definition) -> object:
    return definition.dataset, definition.model, definition.protocol.max_len, definition.device
