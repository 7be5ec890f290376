"""Which stored runs a command is about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seqbench.errors import UsageError, unknown_name
from seqbench.reporting.runs import StoredRun


@dataclass(frozen=True)
class Selection:
    """Names of what is wanted; an empty tuple wants everything."""

    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()

    @classmethod
    def parse(cls, **words: str | None) -> "Selection":
        """Make a selection of comma-separated words by field; None for everything."""
        return cls(
            **{
                name: tuple(word.strip() for word in (text or "").split(",") if word.strip())
                for name, text in words.items()
            }
        )

    def apply(self, runs: Sequence[StoredRun]) -> list[StoredRun]:
        """Return the runs that are wanted.

        Raises:
            UsageError: a name that no stored run has.
        """
        chosen = list(runs)
        for kind, wanted, name_of in self._parts():
            known = sorted({name_of(run) for run in runs})
            for name in wanted:
                if name not in known:
                    raise unknown_name(f"{kind} of a stored run", name, known, "seqbench list runs")
            if wanted:
                chosen = [run for run in chosen if name_of(run) in wanted]
        return chosen

    def _parts(self) -> list[tuple[str, tuple[str, ...], Callable[[StoredRun], str]]]:
        return [
            ("Data set", self.datasets, lambda run: run.record.definition.dataset),
            ("Model", self.models, lambda run: run.record.definition.model),
            ("Protocol", self.protocols, lambda run: run.record.definition.protocol.name),
            ("Split", self.splits, lambda run: run.record.definition.protocol.split),
            ("Seed", self.seeds, lambda run: str(run.seed)),
        ]


def with_keys(runs: Sequence[StoredRun], keys: Sequence[str]) -> list[StoredRun]:
    """Return the runs whose keys begin with one of these digits; all runs if there are none.

    Raises:
        UsageError: a key that no run has, or several.
    """
    chosen = []
    for key in keys:
        found = [run for run in runs if run.folder is not None and run.folder.name.startswith(key)]
        if len(found) != 1:
            many = "no run has it" if not found else f"{len(found)} runs have it"
            raise UsageError(f"Key '{key}': {many}.", hint="See `seqbench list runs`.")
        chosen += [run for run in found if run not in chosen]
    return chosen if keys else list(runs)
