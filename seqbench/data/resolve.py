"""From a name, and what the user asked for, to a request that says all of what is to be prepared."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seqbench.columns import ROLES
from seqbench.data.catalog import DatasetSpec, check_name, get_spec, is_known, user_file_spec
from seqbench.data.filters import Filters
from seqbench.data.synthetic import SyntheticOptions, describe
from seqbench.errors import SeqbenchError, UsageError


@dataclass(frozen=True)
class Request:
    """A data set that is to be prepared."""

    name: str  # that it is stored under
    spec: DatasetSpec  # with the filters in force
    published: Filters  # those of the entry, which published counts are of
    raw: Path | None = None  # read instead of downloading
    columns: dict[str, str] | None = None  # role → column; None unless it is the user's own file
    generated: SyntheticOptions | None = None  # None unless it is generated

    def options(self) -> dict[str, Any]:
        """Return what tells whether preparing again would give the same, for meta.json.

        Raises:
            SeqbenchError: the raw file cannot be read.
        """
        options = {
            "dataset": self.spec.title,
            **asdict(self.spec.filters),
            "synthetic": describe(self.generated) if self.generated else None,
            "raw": _identity(self.raw) if self.raw else None,
        }
        return options if self.columns is None else {**options, "columns": self.columns}


def resolve(
    dataset: str | DatasetSpec,
    *,
    name: str | None = None,
    raw: Path | None = None,
    columns: dict[str, str] | None = None,
    synthetic: SyntheticOptions | None = None,
    **filters: Any,
) -> Request:
    """Check that everything that is asked for fits together. Nothing is read or fetched.

    Args:
        dataset: a name of the catalogue, an entry, or, with `raw`, a new name for the user's own file.
        name: store it under this name instead of its own.
        raw: read this archive, folder or file instead of downloading.
        columns: role ("user", "item", "time", "rating", "position", "split") → column of the user's own file.
        synthetic: the size of generated data; only for entries with a generator.
        filters: departures from the filters of the entry, see `Filters`.

    Raises:
        UsageError: a name is unknown or taken, or options do not fit the data set.
    """
    own = isinstance(dataset, str) and raw is not None and not is_known(dataset)
    if isinstance(dataset, DatasetSpec):
        spec = dataset
    elif own:
        assert raw is not None
        spec = user_file_spec(dataset, raw.name)
    else:
        spec = get_spec(dataset)
    if name is not None:
        check_name(name)
    if columns is not None and not own:
        raise UsageError(
            f"--columns goes with a file of yours, and {spec.name} is a data set of the catalogue.",
            hint="Give a new name, and the file with --raw.",
        )
    if unknown := [role for role in columns or {} if role not in ROLES]:
        raise UsageError(f"--columns knows no '{unknown[0]}'.", hint=f"It knows {', '.join(ROLES)}.")
    if spec.generator is None and synthetic is not None:
        raise UsageError(
            f"{spec.name} is not generated: --users, --items, --length and --seed do not apply.",
            hint="They belong to `seqbench prepare synthetic`.",
        )
    if spec.generator is not None and raw is not None:
        raise UsageError(f"{spec.name} is generated: --raw does not apply.")
    if filters.get("min_rating") is not None and not spec.rated:
        raise UsageError(f"{spec.name} has no ratings: --min-rating does not apply.")
    return Request(
        name=name or spec.name,
        spec=replace(spec, filters=spec.filters.changed(**filters)),
        published=spec.filters,
        raw=raw,
        columns=(columns or {}) if own else None,
        generated=(synthetic or SyntheticOptions()) if spec.generator else None,
    )


def _identity(raw: Path) -> dict[str, Any]:
    """Return what changes when the file does."""
    try:
        stat = raw.stat()
    except OSError as error:
        raise SeqbenchError(
            f"{raw} cannot be read: {error.strerror}.", hint="Give --raw a file or folder that exists."
        ) from error
    return {"path": str(raw.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
