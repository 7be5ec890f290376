"""Reports for programs: CSV in tidy long form, and JSON with everything. Values are in base units."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from seqbench.reporting.document import Difference, Report, Row, Section, Table, TableCell

CSV_COLUMNS = (
    "dataset",
    "fingerprint",
    "protocol",
    "split",
    "removed",
    "selection",
    "windows",
    "max_len",
    "request_time",
    "hardware",
    "model",
    "configuration",
    "table",
    "metric",
    "mode",
    "batch",
    "length",
    "unit",
    "mean",
    "std",
    "n",
    "note",
    "baseline",
    "difference",
    "low",
    "high",
    "p_holm",
)


def render_csv(report: Report) -> str:
    """Write one line per figure: section, model, metric, mean, standard deviation, number of seeds, difference."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in report.sections:
        for table in section.tables:
            writer.writerows(_lines(section, table))
    return stream.getvalue()


def render_json(report: Report) -> str:
    """Write the whole report, with the value of every seed."""
    plain = replace(report, sections=[replace(section, variants=()) for section in report.sections])
    document = {"schema_version": 1, **asdict(plain)}
    for section in document["sections"]:
        del section["variants"]
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _lines(section: Section, table: Table) -> Iterator[dict[str, Any]]:
    protocol = asdict(section.protocol)
    shared = {
        "dataset": section.dataset,
        "fingerprint": section.fingerprint,
        "protocol": protocol.pop("name"),
        **protocol,
        "hardware": table.hardware,
        "table": table.kind,
    }
    for row in table.rows:
        for column in table.columns:
            cell = row.cells[column.key]
            latency = table.kind == "latency"
            yield {
                **shared,
                "model": row.model,
                "configuration": row.configuration,
                "metric": f"latency_{table.statistic}" if latency else column.key,
                "mode": row.mode,
                "batch": row.batch,
                "length": column.key if latency else None,
                "unit": column.base_unit,
                "mean": cell.mean,
                "std": cell.std,
                "n": cell.n,
                "note": _note(table, row, cell),
                **_difference(cell.difference),
            }


def _difference(difference: Difference | None) -> dict[str, Any]:
    """Return how a figure differs from the best baseline's, with the 95 % interval; empty without a test."""
    if difference is None:
        return {}
    return {
        "baseline": difference.baseline,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_holm": difference.p_holm,
    }


def _note(table: Table, row: Row, cell: TableCell) -> str:
    footnotes = [table.footnotes[index] for index in dict.fromkeys([*row.notes, *cell.notes])]
    return "; ".join([*footnotes, *(f"noisy: {words}" for words in cell.noise)])
