"""The data sets of a run: those that are prepared already, and those that have to be prepared first."""

from pathlib import Path

from rich import filesize

from seqbench import console, paths
from seqbench.data.catalog import DatasetSpec, get_spec
from seqbench.data.prepare import prepare
from seqbench.data.prepared import PreparedDataset, list_prepared, open_prepared, prepared_names
from seqbench.errors import SeqbenchError, UsageError

# What a run uses when nothing is prepared: the first of these that is available.
EMBEDDED = ("ml-100k", "synthetic")


def datasets_of_run(names: list[str] | None, home: Path, *, dry_run: bool) -> list[PreparedDataset]:
    """Open the data sets of a run. What is not prepared yet is prepared, with a note; a dry run only notes it.

    Args:
        names: as the user gave them; None for all that are prepared, or the embedded one if there is none.

    Raises:
        UsageError: no data set has one of these names; it is said before any of the others is prepared.
        SeqbenchError: one cannot be prepared, or is damaged.
    """
    if names is None and (ready := list_prepared(home)):
        return ready
    wanted = [EMBEDDED[0]] if names is None else names
    # One that is there but damaged is not replaced: it may have been prepared with other options.
    missing = {name: get_spec(name, prepared_names(home)) for name in wanted if not paths.prepared(home, name).is_dir()}
    found = []
    for name in wanted:
        if name not in missing:
            found.append(open_prepared(name, home))
        elif dry_run:
            _announce(missing[name])
        else:
            console.note(f"{name} is not prepared yet: preparing it first.")
            found.append(_prepared_now(name, home, or_else=EMBEDDED[1] if names is None else None))
    return found


def _announce(spec: DatasetSpec) -> None:
    """Say what a dry run cannot plan yet, and how much would be fetched."""
    size = next((source.size for source in spec.sources if not source.manual), None)
    fetched = f"downloads {filesize.decimal(size)}" if size else "downloads nothing" if spec.generator else "a download"
    console.note(f"{spec.name} is not prepared yet; a real run prepares it first ({fetched}).")


def _prepared_now(name: str, home: Path, or_else: str | None) -> PreparedDataset:
    try:
        return prepare(name, home=home)
    except UsageError:
        raise
    except SeqbenchError as error:
        if or_else is None:
            raise
        console.warn(error.message)
        console.note(f"Running on {or_else} data instead, which needs no network.")
        return prepare(or_else, home=home)
