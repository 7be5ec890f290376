"""Stored runs as a report reads them: the record, and the ranks beside it where they are needed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from seqbench.errors import SeqbenchError
from seqbench.evaluation.metrics import Measure
from seqbench.results import RANKS, RECORD, TOP, Record, UnreadableRecord, read_record
from seqbench.show.numbers import number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqbench.evaluation.ranks import Ranks


@dataclass
class StoredRun:
    """One cell of the store.

    Args:
        record: what its record.json says.
        folder: where its other files are; None for a record that came without.
    """

    record: Record
    folder: Path | None = None
    problem: str = ""  # why its ranks cannot be used, once they have been asked for
    _ranks: "Ranks | None" = field(default=None, repr=False)
    _read: bool = field(default=False, repr=False)

    @property
    def seed(self) -> int:
        """Return the seed of the run."""
        return self.record.definition.seed

    def ranks(self) -> "Ranks | None":
        """Return the ranks of the test users, read when they are first asked for; None if there are no usable ones.

        Damaged ranks, and those that do not fit the record, are not used; `problem` then says why.
        """
        if not self._read:
            self._read = True
            path = None if self.folder is None else self.folder / RANKS
            if path is not None and path.exists():
                try:
                    self._ranks = self._checked(path)
                except SeqbenchError as error:
                    self.problem = error.message
        return self._ranks

    def _checked(self, path: Path) -> "Ranks":
        from seqbench.evaluation.ranks import Ranks

        ranks = Ranks.read(path)
        facts = self.record.dataset
        if len(ranks.users) != facts.get("evaluated_users", len(ranks.users)):
            raise SeqbenchError(f"{path} does not fit its record: {len(ranks.users):,} users.")
        items = facts.get("items")
        if items is not None and int((ranks.better + ranks.ties).max()) >= items:
            raise SeqbenchError(f"{path} does not fit its record: ranks beyond the {items:,} items.")
        return ranks

    def lists(self, length: int) -> "NDArray[np.int64] | None":
        """Return the (U, `length`) best items of the users of `ranks`, 0 where there are fewer; None if not stored.

        Those that are damaged, or do not fit the record, are not used; `problem` then says why.
        """
        import numpy as np

        from seqbench.evaluation.ranks import read_top

        ranks = self.ranks()
        path = None if self.folder is None else self.folder / TOP
        if ranks is None or path is None or not path.exists():
            return None
        try:
            users, positions, items = read_top(path)
            if not np.isin(users, ranks.users).all() or items.max(initial=0) > self.record.dataset.get("items", 0):
                raise SeqbenchError(f"{path} does not fit its record: other users or items.")
        except SeqbenchError as error:
            self.problem = error.message
            return None
        lists = np.zeros((len(ranks.users), length), np.int64)
        kept = positions <= length
        lists[np.searchsorted(ranks.users, users[kept]), positions[kept] - 1] = items[kept]
        return lists

    def knows(self, measure: Measure) -> bool:
        """Return whether a measure follows from the ranks: imported lists end at some place."""
        depth = self.record.imported["depth"] if self.record.imported else None
        return depth is None or (measure.cutoff is not None and measure.cutoff <= depth)

    def per_user(self, measure: Measure) -> "NDArray[np.float64] | None":
        """Return (U,) values of a measure, or None without ranks that give it."""
        ranks = self.ranks() if self.knows(measure) else None
        return None if ranks is None else measure.per_user(ranks.better, ranks.ties)

    def test_value(self, measure: Measure) -> float | None:
        """Return the mean of a measure over test users: of the ranks, or the mean that the record keeps."""
        values = self.per_user(measure)
        return number(self.record.accuracy.get(measure.key) if values is None else float(values.mean()))

    def validation_value(self, measure: Measure) -> float | None:
        """Return the mean over validation users, of which the record keeps only the standard metrics."""
        return number(self.record.validation.get(measure.key))


def load_runs(*stores: Path) -> tuple[list[StoredRun], list[UnreadableRecord]]:
    """Read all records of some stores, and return an error for each that cannot be used.

    Of a cell that several stores have, a finished one counts, that of the first store.
    """
    runs: dict[tuple[str, ...], StoredRun] = {}
    errors: list[UnreadableRecord] = []
    for results in stores:
        for path in sorted(results.glob(f"*/*/*/{RECORD}")):
            cell = path.parent.relative_to(results).parts
            try:
                run = StoredRun(read_record(path), path.parent)
            except UnreadableRecord as error:
                errors.append(error)
                continue
            before = runs.get(cell)
            if before is None or (run.record.finished and not before.record.finished):
                runs[cell] = run
    return [runs[cell] for cell in sorted(runs)], errors
