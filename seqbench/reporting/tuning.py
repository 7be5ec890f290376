"""What searches cost and gave, and the settings that they chose: for the appendix of a paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqbench.evaluation.metrics import parse
from seqbench.reporting.cells import cost_cell, metric_cell
from seqbench.reporting.document import FAILED, Column, Row, Table, TableCell
from seqbench.results import Record
from seqbench.show.numbers import Scale, choose_unit
from seqbench.tuning.searches import LIMITS, Search, validation_of

TIME: Scale = (("s", 1.0), ("min", 60.0), ("h", 3600.0))


def tuning_tables(searches: Sequence[Search]) -> list[Table]:
    """Return a table of what searches cost and gave, and one of the settings that they chose; none without searches.

    Args:
        searches: of one data set under one protocol.
    """
    return [_costs(searches), _settings(searches)] if searches else []


def _costs(searches: Sequence[Search]) -> Table:
    """Return one row for each model: its trials, what they took, and validation before and after."""
    unit, factor = choose_unit(TIME, [search.seconds for search in searches])
    measure = parse(searches[0].trials[0].definition.protocol.selection)
    columns = [
        Column("trials", "trials"),
        Column("pruned", "pruned"),
        Column("failed", "failed"),
        Column("search_seconds", "search", None, "s", unit),
        Column("default", f"{measure.title} default"),
        Column("best", f"{measure.title} best"),
        Column("best_trial", "best trial"),
    ]
    table = Table("tuning", "Tuning, on validation targets", columns)
    for search in searches:
        best, default = search.best, search.default
        table.rows.append(
            Row(
                search.model,
                "",
                {
                    "trials": _count(len(search.trials)),
                    "pruned": _count(search.pruned),
                    "failed": _count(search.failed),
                    "search_seconds": cost_cell({"": search.seconds}, factor),
                    "default": _validation(default, measure.metric.decimals),
                    "best": _validation(best, measure.metric.decimals),
                    "best_trial": TableCell(FAILED) if best is None or not best.trial else _count(best.trial["number"]),
                },
            )
        )
    table.remarks = _remarks(searches, measure.title)
    return table


def _remarks(searches: Sequence[Search], metric: str) -> list[str]:
    """Say what the budget was, and by what the settings were chosen."""
    epochs = sorted(
        {limit["epochs"] for search in searches for record in search.trials if (limit := _training(record))}
    )
    samplers = sorted({record.trial["sampler"] for each in searches for record in each.trials if record.trial})
    most = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    noun = "epoch" if most == "1" else "epochs"
    remarks = [
        f"Trials are of at most {most} {noun}, proposed by {' and '.join(samplers)}; trial 0 has the defaults. "
        f"The best is chosen by {metric} of the validation; no trial is tested. Search is the time of all trials."
    ]
    counts = {len(search.trials) for search in searches}
    if len(counts) > 1:
        remarks.append(f"The budgets differ: {min(counts)} to {max(counts)} trials.")
    return remarks


def _settings(searches: Sequence[Search]) -> Table:
    """Return one row for each model: the searched settings of its best trial."""
    fields = list(dict.fromkeys(field for search in searches for field in search.searched))
    table = Table("settings", "Chosen settings", [Column(field, field) for field in fields])
    for search in searches:
        chosen = search.best.trial["settings"] if search.best and search.best.trial else {}
        cells = {field: _value(chosen[field]) if field in chosen else TableCell("") for field in fields}
        notes = [table.note(words) for words in [_fixed_words(search)] if words]
        table.rows.append(Row(search.model, "", cells, notes=notes))
    table.remarks = ["Empty: not searched, or the model has no such setting. What is not named is as by default."]
    return table


def _fixed_words(search: Search) -> str:
    """Name the settings that all trials had, and that are neither searched nor the model's defaults."""
    changes = search.trials[0].changes or {}
    changed = {**changes.get("config", {}), **changes.get("training", {})}
    fixed = [f"{name}={value}" for name, value in changed.items() if name not in {*search.searched, *LIMITS}]
    return f"with {', '.join(fixed)}" if fixed else ""


def _count(number: int) -> TableCell:
    return TableCell(str(number), mean=float(number), n=1)


def _validation(record: Record | None, decimals: int) -> TableCell:
    if record is None or not record.validation:
        return TableCell(FAILED)
    return metric_cell({str(record.definition.seed): validation_of(record)}, decimals)


def _value(value: Any) -> TableCell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return TableCell(str(value))
    text = str(value) if isinstance(value, int) else np.format_float_positional(value, trim="-")
    return TableCell(text, mean=float(value), n=1)


def _training(record: Record) -> dict[str, Any]:
    training: dict[str, Any] = record.definition.training or {}
    return training
