"""Prepared data sets as training reads them. Importing this is cheap; pyarrow is imported on `load`."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqbench import console, paths
from seqbench.columns import ITEM, RAW, SPLIT, TIMESTAMP, USER
from seqbench.data.catalog import get_spec, is_known
from seqbench.data.filters import Filters
from seqbench.errors import SeqbenchError, UsageError

if TYPE_CHECKING:
    from seqbench.data.log import Log
    from seqbench.data.sequences import Ints, Sequences

INTERACTIONS = "interactions.parquet"  # columns.USER, ITEM, TIMESTAMP; by user, then time
USERS = "users.parquet"  # columns.USER, RAW
ITEMS = "items.parquet"  # columns.ITEM, RAW, TITLE
META = "meta.json"  # written last

SCHEMA_VERSION = 1


class PreparedDataset:
    """One folder below prepared/, opened by its meta.json."""

    def __init__(self, directory: Path) -> None:
        """Read meta.json.

        Raises:
            SeqbenchError: the folder is damaged, or a newer seqbench wrote it.
        """
        self.directory = directory
        try:
            self.meta: dict[str, Any] = json.loads((directory / META).read_text(encoding="utf-8"))
            self.name: str = self.meta["name"]
            version: int = self.meta["schema_version"]
            self.fingerprint: str = self.meta["fingerprint"]  # sha256, hexadecimal
            self.splits: list[str] = self.meta["splits"]  # that make sense; the first is the default
            self.max_len: int = self.meta["max_len"]  # most recent items that a model sees by default
            counts = self.meta["counts"]
            self.users: int = counts["users"]  # ids run from 1 to this
            self.items: int = counts["items"]  # ids run from 1 to this; 0 is padding
            self.interactions: int = counts["interactions"]
            # Folders of earlier releases have the order of ties on its own.
            stored = {"ties": self.meta.get("ties", "file"), **self.meta["filters"]}
            known = {field.name for field in fields(Filters)}
            self.filters = Filters(**{name: value for name, value in stored.items() if name in known})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"{META}: {type(error).__name__}: {error}") from error
        if version > SCHEMA_VERSION:
            raise SeqbenchError(
                f"{directory} was prepared by a newer seqbench ({self.meta.get('seqbench')}).",
                hint=f"Upgrade seqbench, or prepare it again with {_again(self.name)}.",
            )
        if missing := [name for name in (INTERACTIONS, USERS, ITEMS) if not (directory / name).is_file()]:
            raise self._damaged(f"{missing[0]} is missing")

    @property
    def ties(self) -> str:
        """Return how equal times are ordered: "file", "item" or "recbole", see `Filters`."""
        return self.filters.ties

    def load(self) -> "Log":
        """Read the interactions, sorted by user, then time, with the raw ids.

        Raises:
            SeqbenchError: a file is damaged, or is not the one that was prepared.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from seqbench.data.log import Log

        name = INTERACTIONS
        try:
            table = pq.read_table(self.directory / name)
            columns = {key: table.column(key).to_numpy() for key in (USER, ITEM, TIMESTAMP)}
            if SPLIT in table.column_names:
                columns[SPLIT] = table.column(SPLIT).to_numpy()
            users, items = (
                pq.read_table(self.directory / (name := file), columns=[RAW]).column(0).combine_chunks()
                for file in (USERS, ITEMS)
            )
        except (OSError, pa.ArrowException, KeyError) as error:
            raise self._damaged(f"{name}: {error}") from error
        log = Log(columns, users, items)
        if log.fingerprint() != self.fingerprint:
            raise self._damaged(f"{INTERACTIONS} does not have the fingerprint of {META}")
        return log

    def split(self, name: str | None = None) -> "Sequences":
        """Read the interactions and cut them into training, validation and test.

        Args:
            name: "leave-one-out", "temporal" or "given"; None for the first that makes sense.

        Raises:
            UsageError: the data set has no times to split by, or no split of its own.
            SeqbenchError: it is damaged, or the split leaves nothing to train on or nobody to evaluate.
        """
        from seqbench.data.sequences import split_sequences

        name = name or self.splits[0]
        self.check_split(name)
        log = self.load()
        sequences = split_sequences(log[USER], log[ITEM], log[TIMESTAMP], log.get(SPLIT), split=name)
        return dataclasses.replace(sequences, max_len=self.max_len, times=self.seconds(log))

    @property
    def has_times(self) -> bool:
        """Return whether it has times, and not only an order."""
        from seqbench.data.log import UNITS

        return self.meta["timestamp_unit"] in UNITS

    def seconds(self, log: "Log") -> "Ints | None":
        """Return the times of its interactions (N,) in seconds since 1970; None if it has only an order."""
        from seqbench.data.log import UNITS

        if not self.has_times:
            return None
        parts, times = UNITS[self.meta["timestamp_unit"]], log[TIMESTAMP]
        return times if parts == 1 else times // parts

    def check_split(self, split: str) -> None:
        """Check that the data set can be split so.

        Raises:
            UsageError: it has no times to split by, or no split of its own.
        """
        if split not in self.splits:
            raise UsageError(
                f"{self.name} cannot be split by --split {split}.", hint=f"Use --split {' or '.join(self.splits)}."
            )

    def _damaged(self, why: str) -> SeqbenchError:
        name = paths.dataset_name(self.directory)
        return SeqbenchError(
            f"The prepared data set {self.directory} is damaged ({why}).",
            hint=f"Prepare it again with {_again(name)}.",
        )


def _again(name: str) -> str:
    """Return the command that prepares a data set again. What a user's own name stands for, only the user knows."""
    if is_known(name):
        return f"`seqbench prepare {name} --force`"
    return f"`seqbench prepare --raw FILE --name {name} --force` or `seqbench prepare NAME --name {name} --force`"


def open_prepared(name: str, home: Path) -> PreparedDataset:
    """Open the prepared data set called `name`.

    Raises:
        UsageError: no data set has this name.
        SeqbenchError: it is not prepared yet, or is damaged.
    """
    folder = paths.prepared(home, name)
    inside = folder.parent == paths.prepared(home) and not name.startswith(".")
    if inside and folder.is_dir():
        return PreparedDataset(folder)
    get_spec(name, prepared_names(home))
    raise SeqbenchError(
        f"Data set '{name}' is not prepared in {paths.prepared(home)}.",
        hint=f"Run `seqbench prepare {name}`.",
    )


def list_prepared(home: Path) -> list[PreparedDataset]:
    """Open all prepared data sets, by name. Damaged ones are left out with a warning."""
    found = []
    for folder in _folders(home):
        try:
            found.append(PreparedDataset(folder))
        except SeqbenchError as error:
            console.warn(f"{error.message} {error.hint}")
    return found


def prepared_names(home: Path) -> list[str]:
    """Return the names of all prepared data sets, damaged ones included."""
    return [paths.dataset_name(folder) for folder in _folders(home)]


def _folders(home: Path) -> Iterator[Path]:
    # A leading dot marks what is being built, or is being replaced.
    root = paths.prepared(home)
    entries = sorted(root.iterdir()) if root.is_dir() else []
    return (entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))
