"""Tables of a prepared data set: its counts beside the published ones, and its figures."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from seqbench import console
from seqbench.data.catalog import GIVEN
from seqbench.data.describe import QUANTILES, Description
from seqbench.data.prepared import PreparedDataset
from seqbench.show.text import printable

CEILING_METRICS = ("hr@10", "ndcg@10", "mrr@10")  # the ones that the table shows


def counts_table(prepared: PreparedDataset) -> Group:
    """Show what was prepared beside what was published, where that is known: title, table, remarks."""
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
    heading = Text(printable(f"{prepared.name}: {meta['title']}"), style="bold")
    return Group(heading, table, Text(printable(_remarks(prepared))), Text())


def _beside(ours: int, published: int | None) -> list[str]:
    """Return the published count, and whether ours agrees."""
    if published is None:
        return ["–", ""]
    yes, no = ("✓", "✗") if (console.out.encoding or "").lower().startswith("utf") else ("yes", "NO")
    return [f"{published:,}", f"[green]{yes}[/]" if ours == published else f"[bold red]{no}[/]"]


def _remarks(prepared: PreparedDataset) -> str:
    meta = prepared.meta
    lines = [f"Source: {meta['source']['label']}"]
    if named := meta["source"].get("columns"):
        lines.append("Columns: " + ", ".join(f"{role} is {name}" for role, name in named.items()))
    lines.append(f"Filter: {prepared.filters.words()}")
    if meta["splits"][0] == GIVEN:
        lines.append("Split: as the file says; --split of `seqbench run` chooses another.")
    if meta["expected"]:
        lines.append(f"Published: {meta['expected']['source']}")
        if meta["expected"]["prepared"] and not meta["compared"]:
            lines.append("Published counts are of other filters, so they are not compared.")
    if ceiling := meta.get("ceiling"):
        figures = ", ".join(f"{name.upper()} {ceiling[name]:.4f}" for name in CEILING_METRICS)
        users = meta.get("ceiling_users", prepared.users)
        sample = f", {users:,} users" if users < prepared.users else ""
        lines.append(f"Ceiling (the generating process itself, test{sample}): {figures}")
    lines += [f"Licence: {meta['licence']}", f"Cite: {meta['citation']}"]
    return "\n".join(lines)


def description_table(prepared: PreparedDataset, figures: Description) -> Group:
    """Show the figures as lines of words and numbers."""
    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    lines.add_column()
    lines.add_column(justify="right", no_wrap=True)
    for words, value in (
        ("users", f"{figures.users:,}"),
        ("items", f"{figures.items:,}"),
        ("interactions", f"{figures.interactions:,}"),
        ("density", f"{figures.density:.3%}"),
        *((f"interactions of the most popular {head} of the items", f"{x:.1%}") for head, x in figures.heads.items()),
        ("interactions with an item that the user had met before", f"{figures.repeated:.1%}"),
        ("interactions with the item of the interaction before", f"{figures.repeated_at_once:.1%}"),
        ("interactions that share user and time with another", _share(figures.tied)),
        ("first day", figures.first or "no times"),
        ("last day", figures.last or "no times"),
        ("leave-one-out: training that is later than a test target, on average", _share(figures.later_training)),
        ("leave-one-out: test targets that are in nobody's training", f"{figures.new_targets:.1%}"),
    ):
        lines.add_row(words, value)
    spread = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("interactions", *QUANTILES, "mean"):
        spread.add_column(title, justify="left" if title == "interactions" else "right")
    per_item = figures.interactions / figures.items
    for words, quantiles, mean in (
        ("per user", figures.lengths, figures.mean_length),
        ("per item", figures.item_counts, per_item),
    ):
        spread.add_row(words, *(f"{value:,}" for value in quantiles.values()), f"{mean:,.1f}")
    heading = Text(printable(f"{prepared.name}: {prepared.meta['title']}, {prepared.filters.words()}"), style="bold")
    return Group(heading, lines, Text(), spread)


def _share(value: float | None) -> str:
    return "no times" if value is None else f"{value:.1%}"
