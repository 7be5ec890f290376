"""Prepared data sets as training reads them. Importing this is cheap; pyarrow is imported on `load`."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqbench import columns, console, paths
from seqbench.data.catalog import load_catalog
from seqbench.errors import SeqbenchError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Group

INTERACTIONS = "interactions.parquet"  # columns.USER, ITEM, TIMESTAMP; by user, then time
USERS = "users.parquet"  # columns.USER, RAW
ITEMS = "items.parquet"  # columns.ITEM, RAW, TITLE
META = "meta.json"  # written last

SCHEMA_VERSION = 1

CEILING_METRICS = ("hr@10", "ndcg@10", "mrr@10")  # the ones that the table shows


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
            self.max_len: int = self.meta["max_len"]  # most recent items that a model sees by default
            counts = self.meta["counts"]
            self.users: int = counts["users"]  # ids run from 1 to this
            self.items: int = counts["items"]  # ids run from 1 to this; 0 is padding
            self.interactions: int = counts["interactions"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"{META}: {type(error).__name__}: {error}") from error
        if version > SCHEMA_VERSION:
            raise SeqbenchError(
                f"{directory} was prepared by a newer seqbench ({self.meta.get('seqbench')}).",
                hint=f"Upgrade seqbench, or prepare it again with `seqbench prepare {self.name} --force`.",
            )
        if missing := [name for name in (INTERACTIONS, USERS, ITEMS) if not (directory / name).is_file()]:
            raise self._damaged(f"{missing[0]} is missing")

    def load(self) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """The interactions, sorted by user, then time.

        Returns:
            users (n,) int32 from 1, items (n,) int32 from 1, timestamps (n,) int64 in meta["timestamp_unit"].

        Raises:
            SeqbenchError: the file is damaged, or is not the one that was prepared.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(
                self.directory / INTERACTIONS, columns=[columns.USER, columns.ITEM, columns.TIMESTAMP]
            )
            users, items, timestamps = (column.to_numpy() for column in table.columns)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise self._damaged(f"{INTERACTIONS}: {error}") from error
        if fingerprint_of(users, items, timestamps) != self.fingerprint:
            raise self._damaged(f"{INTERACTIONS} does not have the fingerprint of {META}")
        return users, items, timestamps

    def _damaged(self, why: str) -> SeqbenchError:
        name = self.directory.name
        return SeqbenchError(
            f"The prepared data set {self.directory} is damaged ({why}).",
            hint=f"Prepare it again with `seqbench prepare {name} --force`.",
        )


def fingerprint_of(users: "np.ndarray", items: "np.ndarray", timestamps: "np.ndarray") -> str:
    """sha256 over the sorted interactions as little-endian int32, int32, int64: the same on every machine."""
    digest = hashlib.sha256()
    for values, kind in ((users, "<i4"), (items, "<i4"), (timestamps, "<i8")):
        digest.update(values.astype(kind, copy=False).tobytes())
    return digest.hexdigest()


def open_prepared(name: str, home: Path) -> PreparedDataset:
    """The prepared data set called `name`.

    Raises:
        UsageError: no data set has this name.
        SeqbenchError: it is not prepared yet, or is damaged.
    """
    folder = paths.prepared(home, name)
    inside = folder.parent == paths.prepared(home) and not name.startswith(".")
    if inside and folder.is_dir():
        return PreparedDataset(folder)
    catalog = load_catalog()
    if name not in catalog:
        known = [*catalog, *(entry.name for entry in _folders(home))]
        raise unknown_name("Data set", name, known, "seqbench list datasets")
    raise SeqbenchError(
        f"Data set '{name}' is not prepared in {paths.prepared(home)}.",
        hint=f"Run `seqbench prepare {name}`.",
    )


def list_prepared(home: Path) -> list[PreparedDataset]:
    """All prepared data sets, by name. Damaged ones are left out with a warning."""
    found = []
    for folder in _folders(home):
        try:
            found.append(PreparedDataset(folder))
        except SeqbenchError as error:
            console.warn(f"{error.message} {error.hint}")
    return found


def _folders(home: Path) -> Iterator[Path]:
    # A leading dot marks what is being built, or is being replaced.
    root = paths.prepared(home)
    entries = sorted(root.iterdir()) if root.is_dir() else []
    return (entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def counts_table(prepared: PreparedDataset) -> "Group":
    """What was prepared, beside what was published where that is known: title, table, remarks."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    meta = prepared.meta
    counts, raw_counts = meta["counts"], meta["raw_counts"]
    expected = meta["expected"]["prepared"] if meta["compared"] else None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("raw", justify="right")
    table.add_column("prepared", justify="right")
    if expected:
        table.add_column("published", justify="right")
        table.add_column("agrees", justify="center")
    yes, no = ("✓", "✗") if (console.out.encoding or "").lower().startswith("utf") else ("yes", "NO")
    for key in ("users", "items", "interactions"):
        row = [key, f"{raw_counts[key]:,}", f"{counts[key]:,}"]
        if expected:
            agrees = f"[green]{yes}[/]" if counts[key] == expected[key] else f"[bold red]{no}[/]"
            row += [f"{expected[key]:,}", agrees]
        table.add_row(*row)
    for key, words in (("mean_length", "mean length"), ("max_length", "longest")):
        table.add_row(words, f"{raw_counts[key]:,}", f"{counts[key]:,}")
    # Text, not markup: paths and titles may hold brackets.
    return Group(Text(f"{prepared.name}: {meta['title']}", style="bold"), table, Text(_remarks(meta)), Text())


def _remarks(meta: dict[str, Any]) -> str:
    filters = meta["filters"]
    lines = [
        f"Source: {meta['source']['label']}",
        f"Filter: users with {filters['min_user']}, items with {filters['min_item']} interactions or more, "
        "repeated until nothing changes",
    ]
    if meta["compared"]:
        lines.append(f"Published: {meta['expected']['source']}")
    elif meta["expected"]:
        lines.append("Published counts are of other filters, so they are not compared.")
    if ceiling := meta.get("ceiling"):
        figures = ", ".join(f"{name.upper()} {ceiling[name]:.4f}" for name in CEILING_METRICS)
        lines.append(f"Ceiling (the generating process itself, test): {figures}")
    lines += [f"Licence: {meta['licence']}", f"Cite: {meta['citation']}"]
    return "\n".join(lines)
