"""Measured figures beside published ones of the same data and protocol.

`published.csv` holds what papers and their authors' repositories print, for whole-catalogue ranking only. A figure is
comparable when its data set has the same numbers of users and items after filtering, and when its evaluation is that of
one of our protocols: `lrurec` for the code of LRURec, `recbole` for RecBole with nothing removed, `fair` where seen
items are removed. Everything else a figure depends on is named where it differs.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from seqbench.evaluation.metrics import Measure, parse
from seqbench.reporting.cells import metric_cell
from seqbench.reporting.document import FAILED, Column, Row, Table, TableCell
from seqbench.reporting.variants import Variant
from seqbench.show.numbers import fixed

NOTHING = "no comparable figure"
SPREADS = 2  # standard deviations over seeds within which a figure counts as reached


@dataclass(frozen=True)
class Published:
    """One line of published.csv."""

    paper: str  # its citation key
    model: str  # ours
    printed: str  # the name of the model in the source
    users: int
    items: int
    max_len: int | None
    protocol: str
    measure: Measure
    value: float
    source: str  # table of the paper, or file of the repository


@cache
def published() -> tuple[Published, ...]:
    """Read all published figures."""
    text = files("seqbench.reporting").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            paper=line["paper"],
            model=line["model"],
            printed=line["printed"],
            users=int(line["users"]),
            items=int(line["items"]),
            max_len=int(line["max_len"]) if line["max_len"] else None,
            protocol=line["protocol"],
            measure=parse(line["metric"]),
            value=float(line["value"]),
            source=line["source"],
        )
        for line in csv.DictReader(text.splitlines())
    )


def published_table(variants: Sequence[Variant], measures: Sequence[Measure], seeds: Sequence[int]) -> Table:
    """Make a table of one row for each trained variant and paper that has figures of its model.

    Args:
        variants: all of one data set and protocol.
        measures: the metrics to be set side by side; recall counts as HR.
        seeds: those of the section.
    """
    columns = []
    for measure in measures:
        columns += [
            Column(measure.key, measure.title, measure.metric.direction),
            Column(f"{measure.key} published", "published"),
            Column(f"{measure.key} difference", "difference"),
        ]
    table = Table("published", "Measured and published", columns)
    for variant in variants:
        if not variant.trained or not variant.finished:
            continue
        found = _comparable(variant)
        for paper in dict.fromkeys(each.paper for each in found) or [""]:
            figures = [each for each in found if each.paper == paper]
            row = Row(variant.model, variant.configuration, {}, ranked=False)
            row.notes = [table.note(words) for words in [*variant.seed_remarks(seeds), *_remarks(variant, figures)]]
            for measure in measures:
                _fill(table, row, variant, measure, figures)
            table.rows.append(row)
    return table


def _comparable(variant: Variant) -> list[Published]:
    record = variant.finished[0]
    where = (record.dataset.get("users"), record.dataset.get("items"), record.definition.protocol.name)
    if record.definition.protocol.split != "leave-one-out":
        return []
    return [
        each for each in published() if each.model == variant.model and (each.users, each.items, each.protocol) == where
    ]


def _remarks(variant: Variant, figures: Sequence[Published]) -> list[str]:
    if not figures:
        return []
    first, max_len = figures[0], variant.records[0].definition.protocol.max_len
    sources = ", ".join(dict.fromkeys(each.source for each in figures))
    remarks = [f"{first.printed}: {sources}"]
    if first.max_len not in (None, max_len):
        remarks.append(f"published at maximum length {first.max_len}, measured at {max_len}")
    return remarks


def _fill(table: Table, row: Row, variant: Variant, measure: Measure, figures: Sequence[Published]) -> None:
    found = {run.seed: run.test_value(measure) for run in variant.runs if run.record.finished}
    values = {str(seed): value for seed, value in found.items() if value is not None}
    decimals = measure.metric.decimals
    measured = metric_cell(values, decimals) if values else TableCell(FAILED)
    row.cells[measure.key] = measured
    theirs = [each.value for each in figures if _same(each.measure, measure)]
    if not theirs:
        absent = TableCell(FAILED, notes=[table.note(NOTHING)])
        row.cells[f"{measure.key} published"], row.cells[f"{measure.key} difference"] = absent, TableCell("")
        return
    # Several runs of one source are seeds of theirs.
    printed = metric_cell({str(index): value for index, value in enumerate(theirs)}, decimals)
    row.cells[f"{measure.key} published"] = printed
    if measured.mean is None or printed.mean is None:
        row.cells[f"{measure.key} difference"] = TableCell(FAILED)
        return
    difference = measured.mean - printed.mean
    cell = TableCell(f"{'+' if difference >= 0 else ''}{fixed(difference, decimals)}", mean=difference, n=1)
    if measured.std is not None and abs(difference) <= SPREADS * measured.std:
        cell.notes = [table.note(f"within {SPREADS} standard deviations over our seeds")]
    row.cells[f"{measure.key} difference"] = cell


def _same(theirs: Measure, ours: Measure) -> bool:
    return theirs.cutoff == ours.cutoff and theirs.metric.gain is ours.metric.gain
