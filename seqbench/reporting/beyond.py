"""The table of what the stored lists of recommendations are like, and the tables of accuracy by groups of users."""

from collections.abc import Sequence

import numpy as np

from seqbench.evaluation import beyond
from seqbench.evaluation.background import Background, Ints, groups
from seqbench.reporting.cells import cost_cell, metric_cell
from seqbench.reporting.document import FAILED, NOT_APPLICABLE, Column, Row, Table, TableCell
from seqbench.reporting.material import Material
from seqbench.reporting.runs import StoredRun
from seqbench.show.numbers import decimals_for, fixed

LIST = 10  # items of a list: what is shown to a user

COLUMNS = (
    Column("coverage", f"Coverage@{LIST}"),
    Column("gini", f"Gini@{LIST}"),
    Column("novelty", f"Novelty@{LIST}", base_unit="bits", unit="bits"),
    Column("popularity_lift", "Popularity lift"),
    Column("overlap", f"Overlap@{LIST}"),
)
REMARKS = (
    "Coverage: share of the catalogue that is in some list.",
    "Gini: how unevenly items are recommended, 0 all alike.",
    "Novelty: mean of log2(users / users of the item) over recommended items.",
    "Popularity lift: popularity of the list over that of the user's history.",
    "Overlap: share of a list that another seed recommends, too.",
    "None of these is better when larger or smaller: no figure is marked.",
)


def beyond_table(material: Material) -> Table:
    """Make the table of coverage, evenness, novelty, popularity and stability of the stored lists."""
    table = Table("beyond", "Beyond accuracy", list(COLUMNS))
    known = material.known()
    for variant in material.variants:
        row = Row(variant.model, variant.configuration, {}, ranked=variant.trained)
        row.notes = [table.note(words) for words in variant.seed_remarks(material.seeds)]
        lists = {run.seed: found for run in variant.runs if (found := _lists(run, known)) is not None}
        values: dict[str, dict[str, float]] = {column.key: {} for column in COLUMNS}
        for seed, each in lists.items():
            items = next(int(run.record.dataset["items"]) for run in variant.runs if run.seed == seed)
            values["coverage"][str(seed)] = beyond.coverage(each, items)
            values["gini"][str(seed)] = beyond.gini(each, items)
            if known is not None:
                values["novelty"][str(seed)] = beyond.novelty(each, known.popularity, known.audience)
                values["popularity_lift"][str(seed)] = beyond.popularity_lift(each, known.popularity, known.taste)
        for column in COLUMNS[:-1]:
            figures = values[column.key]
            reason = variant.failure_words() if variant.failed else "its lists were not kept"
            reason = reason if not lists else "needs the prepared data set"
            missing = [] if figures else [table.note(reason)]
            row.cells[column.key] = cost_cell(figures, 1.0) if figures else TableCell(FAILED, notes=missing)
        row.cells["overlap"] = _overlap(list(lists.values()))
        table.rows.append(row)
    table.remarks += REMARKS
    return table


def bucket_tables(material: Material) -> list[Table]:
    """Make tables of the first metric by length of the history, and by popularity and age of the target."""
    known = material.known()
    if known is None:
        return []
    measure, tables = material.measures[0], []
    for words, buckets in groups(known).items():
        columns = [Column(f"{measure.key} {words} {b.title}", b.title, unit=_users(b.members)) for b in buckets]
        table = Table("buckets", f"{measure.title} by {words}", columns)
        for variant in material.variants:
            row = Row(variant.model, variant.configuration, {})
            row.notes = [table.note(words) for words in variant.seed_remarks(material.seeds)]
            per_user = {
                str(run.seed): found
                for run in variant.runs
                if run.record.finished and same_users(run, known) and (found := run.per_user(measure)) is not None
            }
            for column, bucket in zip(columns, buckets, strict=True):
                values = {seed: float(found[bucket.members].mean()) for seed, found in per_user.items()}
                if values:
                    row.cells[column.key] = metric_cell(values, measure.metric.decimals)
                else:
                    reason = variant.failure_words() if variant.failed else "its ranks were not kept"
                    row.cells[column.key] = TableCell(FAILED, notes=[table.note(reason)])
            table.rows.append(row)
        table.remarks.append("Groups of about equally many users; differences within them were not tested.")
        tables.append(table)
    return tables


def same_users(run: StoredRun, known: Background) -> bool:
    """Return whether a run has ranks, and they are of the test users of a background."""
    ranks = run.ranks()
    return ranks is not None and np.array_equal(ranks.users, known.users)


def _users(members: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> str:
    count = int(members.sum())
    return f"{count:,} user{'' if count == 1 else 's'}"


def _lists(run: StoredRun, known: Background | None) -> Ints | None:
    """Return the stored lists (U, LIST) of a run; with a background, those of its users."""
    fits = known is None or same_users(run, known)
    return run.lists(LIST) if run.record.finished and fits else None


def _overlap(lists: Sequence[Ints]) -> TableCell:
    if len({len(each) for each in lists}) != 1 or len(lists) < 2:
        return TableCell(NOT_APPLICABLE)
    value = beyond.overlap(lists)
    return TableCell(fixed(value, decimals_for(value)), mean=value, n=len(lists))
