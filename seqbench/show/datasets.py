"""The tables of `seqbench list datasets`."""

from pathlib import Path

from rich import filesize
from rich.table import Table

from seqbench import paths
from seqbench.data.catalog import Counts, DatasetSpec, Expected, Source, families, get_spec, is_known, load_catalog
from seqbench.data.prepared import list_prepared, open_prepared
from seqbench.show.tables import columns, facts, yes_or_no


def datasets_table(home: Path) -> Table:
    """Show one line per data set of the catalogue, and per other prepared one."""
    ready = {prepared.name: prepared for prepared in list_prepared(home)}
    catalog = load_catalog()
    table = columns("Data set", "Ready")
    table.padding = (0, 1, 0, 0)
    for title in ("Users", "Items", "Inter-\nactions", "Download"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in [*catalog, *(name for name in ready if name not in catalog)]:
        spec, prepared = catalog.get(name), ready.get(name)
        expected = spec.expected if spec else None
        counts = prepared or (expected.prepared or expected.raw if expected else None)
        form = "{}" if prepared or (expected and expected.prepared) else "({})"
        values = (counts.users, counts.items, counts.interactions) if counts else (None, None, None)
        sizes = ["–" if value is None else form.format(short_count(value)) for value in values]
        table.add_row(name, yes_or_no(prepared is not None), *sizes, _download(spec) if spec else "none")
    more = ", ".join(f"{family}:CATEGORY" for family in families())
    table.caption = (
        f"In brackets: before filtering. Ready: prepared in {paths.prepared(home)}.\n"
        f"{more}: any category of the publisher's. A file of yours: seqbench prepare --raw FILE --name NAME.\n"
        "`seqbench list datasets NAME` shows title, filters, sources and licence."
    )
    return table


def dataset_table(name: str, home: Path) -> Table:
    """Show what is known of one data set: of the catalogue, or another prepared one.

    Raises:
        UsageError: no data set has this name.
    """
    if not is_known(name):
        prepared = open_prepared(name, home)
        meta = prepared.meta
        return facts(
            ("data set", meta["name"]),
            ("title", meta["title"]),
            ("ready", f"yes, in {paths.prepared(home, name)}"),
            ("size", _counts(Counts(**{key: meta["counts"][key] for key in ("users", "items", "interactions")}))),
            ("filter", prepared.filters.words()),
            ("source", meta["source"]["label"]),
            ("licence", meta["licence"]),
        )
    spec = get_spec(name)
    folder = paths.prepared(home, name)
    expected = spec.expected or Expected("")
    return facts(
        ("data set", name),
        ("title", spec.title),
        ("ready", f"yes, in {folder}" if folder.is_dir() else f"no; `seqbench prepare {name}`"),
        ("raw size", _counts(expected.raw)),
        ("prepared size", _counts(expected.prepared)),
        ("published in", expected.source),
        ("filter", spec.filters.words()),
        ("splits", ", ".join(spec.splits)),
        *(("source", f"{source.label}, {source.location}{_size(source)}") for source in spec.sources),
        ("home page", spec.homepage or ""),
        ("licence", spec.licence),
        ("cite", spec.citation),
    )


def short_count(count: int) -> str:
    """Write a number in six characters at most, up to 99 million and more: "9,999", "99.3 k", "12.3 M"."""
    if count < 10_000:
        return f"{count:,}"
    size, unit = (count / 1e6, "M") if count >= 999_500 else (count / 1e3, "k")
    return f"{size:,.{0 if size >= 99.95 else 1}f} {unit}"


def _counts(counts: Counts | None) -> str:
    named = (
        (
            (counts.users, "users"),
            (counts.items, "items"),
            (counts.interactions, "interactions"),
        )
        if counts
        else ()
    )
    return ", ".join(f"{value:,} {noun}" for value, noun in named if value is not None)


def _size(source: Source) -> str:
    return f" ({filesize.decimal(source.size)})" if source.size else ""


def _download(spec: DatasetSpec) -> str:
    """Write how much is fetched, as far as that is known."""
    if spec.generator:
        return "none"
    if spec.manual:
        return "by hand"
    size = next(source.size for source in spec.sources if not source.manual)
    return filesize.decimal(size) if size else "unknown"
