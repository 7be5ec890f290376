"""Prepared data sets as training reads them. Importing this is cheap; pyarrow is imported on `load`."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from seqbench import columns, console, paths
from seqbench.data.catalog import GIVEN, get_spec, is_known
from seqbench.errors import SeqbenchError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Group

INTERACTIONS = "interactions.parquet"  # columns.USER, ITEM, TIMESTAMP; by user, then time
USERS = "users.parquet"  # columns.USER, RAW
ITEMS = "items.parquet"  # columns.ITEM, RAW, TITLE
META = "meta.json"  # written last

SCHEMA_VERSION = 1

CEILING_METRICS = ("hr@10", "ndcg@10", "mrr@10")  # the ones that the table shows


class Interactions(NamedTuple):
    """A prepared data set's rows, sorted by user, then time."""

    users: "np.ndarray"  # (n,) int32 from 1
    items: "np.ndarray"  # (n,) int32 from 1
    timestamps: "np.ndarray"  # (n,) int64 in meta["timestamp_unit"]
    marks: "np.ndarray | None"  # (n,) int8 parts of the given split, 0 train, 1 valid, 2 test; None without one


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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"{META}: {type(error).__name__}: {error}") from error
        if version > SCHEMA_VERSION:
            raise SeqbenchError(
                f"{directory} was prepared by a newer seqbench ({self.meta.get('seqbench')}).",
                hint=f"Upgrade seqbench, or prepare it again with {_again(self.name)}.",
            )
        if missing := [name for name in (INTERACTIONS, USERS, ITEMS) if not (directory / name).is_file()]:
            raise self._damaged(f"{missing[0]} is missing")

    def load(self) -> "Interactions":
        """The interactions, sorted by user, then time.

        Raises:
            SeqbenchError: the file is damaged, or is not the one that was prepared.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.directory / INTERACTIONS)
            users, items, timestamps = (
                table.column(name).to_numpy() for name in (columns.USER, columns.ITEM, columns.TIMESTAMP)
            )
            marks = table.column(columns.SPLIT).to_numpy() if columns.SPLIT in table.column_names else None
        except (OSError, pa.ArrowException, KeyError) as error:
            raise self._damaged(f"{INTERACTIONS}: {error}") from error
        if fingerprint_of(users, items, timestamps, marks) != self.fingerprint:
            raise self._damaged(f"{INTERACTIONS} does not have the fingerprint of {META}")
        return Interactions(users, items, timestamps, marks)

    def check_split(self, split: str) -> None:
        """Whether the data set can be split so.

        Raises:
            UsageError: it has no times to split by, or no split of its own.
        """
        if split not in self.splits:
            raise UsageError(
                f"{self.name} cannot be split by --split {split}.", hint=f"Use --split {' or '.join(self.splits)}."
            )

    def filter_words(self) -> str:
        """What was filtered, in a few words for reports: "5-core"."""
        return filter_words(self.meta["filters"])

    def _damaged(self, why: str) -> SeqbenchError:
        name = paths.dataset_name(self.directory)
        return SeqbenchError(
            f"The prepared data set {self.directory} is damaged ({why}).",
            hint=f"Prepare it again with {_again(name)}.",
        )


def _again(name: str) -> str:
    """The command that prepares a data set again. What a name of the user's was given to, only the user knows."""
    if is_known(name):
        return f"`seqbench prepare {name} --force`"
    return f"`seqbench prepare --raw FILE --name {name} --force` or `seqbench prepare NAME --name {name} --force`"


def fingerprint_of(
    users: "np.ndarray", items: "np.ndarray", timestamps: "np.ndarray", marks: "np.ndarray | None" = None
) -> str:
    """sha256 over the sorted interactions as little-endian int32, int32, int64 (and int8): alike on every machine."""
    import numpy as np

    digest = hashlib.sha256()
    for values, kind in ((users, "<i4"), (items, "<i4"), (timestamps, "<i8"), (marks, "<i1")):
        if values is not None:
            digest.update(np.ascontiguousarray(values.astype(kind, copy=False)).data)
    return digest.hexdigest()


def filter_words(filters: dict[str, Any]) -> str:
    """What was filtered, in a few words."""
    least_user, least_item = filters["min_user"], filters["min_item"]
    words = f"users with {least_user}, items with {least_item} interactions or more"
    if least_user == least_item:
        words = "unfiltered" if least_user == 1 else f"{least_user}-core"
    if max(least_user, least_item) > 1:
        words += {"joint-once": ", one pass", "item-then-user-once": ", items, then users, once"}.get(
            filters["rule"], ""
        )
    if (least := filters.get("min_rating")) is not None:
        words += f", ratings from {least:g}"
    words += {"first": ", first of each pair", "last": ", last of each pair"}.get(filters.get("duplicates", ""), "")
    if filters.get("repeats") == "drop":
        words += ", no repeats in a row"
    if (most := filters.get("max_users")) is not None:
        words += f", a sample of {most:,} users"
    return words


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
    get_spec(name, prepared_names(home))
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


def prepared_names(home: Path) -> list[str]:
    """The names of all prepared data sets, damaged ones included."""
    return [paths.dataset_name(folder) for folder in _folders(home)]


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
    expected_raw = (meta["expected"] or {}).get("raw")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for title, published in (("raw", expected_raw), ("prepared", expected)):
        table.add_column(title, justify="right")
        if published:
            table.add_column("published", justify="right")
            table.add_column("agrees", justify="center")
    for key in ("users", "items", "interactions"):
        row = [key, f"{raw_counts[key]:,}"]
        if expected_raw:
            row += _beside(raw_counts[key], expected_raw[key])
        row.append(f"{counts[key]:,}")
        if expected:
            row += _beside(counts[key], expected[key])
        table.add_row(*row)
    for key, words in (("mean_length", "mean length"), ("max_length", "longest")):
        table.add_row(words, f"{raw_counts[key]:,}", *["", ""] * bool(expected_raw), f"{counts[key]:,}")
    # Text, not markup: paths and titles may hold brackets.
    return Group(Text(f"{prepared.name}: {meta['title']}", style="bold"), table, Text(_remarks(meta)), Text())


def _beside(ours: int, published: int | None) -> list[str]:
    """The published count, and whether ours agrees."""
    if published is None:
        return ["–", ""]
    yes, no = ("✓", "✗") if (console.out.encoding or "").lower().startswith("utf") else ("yes", "NO")
    return [f"{published:,}", f"[green]{yes}[/]" if ours == published else f"[bold red]{no}[/]"]


def _remarks(meta: dict[str, Any]) -> str:
    lines = [f"Source: {meta['source']['label']}"]
    if named := meta["source"].get("columns"):
        lines.append("Columns: " + ", ".join(f"{role} is {name}" for role, name in named.items()))
    lines.append(f"Filter: {_filter_sentence(meta['filters'])}")
    if meta["splits"][0] == GIVEN:
        lines.append("Split: as the file says; --split of `seqbench run` chooses another.")
    if meta["expected"]:
        lines.append(f"Published: {meta['expected']['source']}")
        if meta["expected"]["prepared"] and not meta["compared"]:
            lines.append("Published counts are of other filters, so they are not compared.")
    if ceiling := meta.get("ceiling"):
        figures = ", ".join(f"{name.upper()} {ceiling[name]:.4f}" for name in CEILING_METRICS)
        lines.append(f"Ceiling (the generating process itself, test): {figures}")
    lines += [f"Licence: {meta['licence']}", f"Cite: {meta['citation']}"]
    return "\n".join(lines)


def _filter_sentence(filters: dict[str, Any]) -> str:
    """What was filtered, in the order in which it was."""
    steps = []
    if (least := filters.get("min_rating")) is not None:
        steps.append(f"ratings from {least:g}")
    if filters.get("repeats") == "drop":
        steps.append("an item right after itself once")
    if (which := filters.get("duplicates", "none")) != "none":
        steps.append(f"the {which} interaction of each user and item")
    if max(filters["min_user"], filters["min_item"]) > 1:
        how = {
            "k-core": "repeated until nothing changes",
            "joint-once": "both counted once, before any is dropped",
            "item-then-user-once": "items first, then users, once",
        }[filters["rule"]]
        steps.append(f"users with {filters['min_user']}, items with {filters['min_item']} interactions or more, {how}")
    if (most := filters.get("max_users")) is not None:
        steps.append(f"a sample of {most:,} of these users")
    return "; ".join(steps) or "none"
