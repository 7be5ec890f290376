"""One page that needs nothing else: tables that can be sorted, figures, and every cell with how to repeat it.

Text of records is escaped by the template, and by `svg.py`. The page forbids all scripts but its own, by digest, and
everything from elsewhere.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from seqbench.reporting import svg
from seqbench.reporting.costs import hardware_words
from seqbench.reporting.document import NOISY, Report, Row, Section, Table, TableCell
from seqbench.reporting.figures import Figure, figures
from seqbench.reporting.names import display_name
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.variants import changed_settings
from seqbench.results import Definition
from seqbench.results.records import FULL, Changes
from seqbench.show.text import printable

SOFTWARE = ("os", "python", "torch", "numpy", "cuda", "driver", "seqbench", "git_commit", "operators")
DIGITS = 6  # of figures of the environment and of settings


def render_html(report: Report) -> str:
    """Write the whole page."""
    script, style = _file("page.js"), _file("page.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_file("page.html")).render(
        report=report,
        sections=[_section(section, report.metrics[0], number) for number, section in enumerate(report.sections)],
        script=Markup(script),  # noqa: S704 - our own file
        style=Markup(style),  # noqa: S704 - our own file
        digest=digest,
        noisy=NOISY,
    )


def _file(name: str) -> str:
    return files("seqbench.reporting").joinpath("page", name).read_text(encoding="utf-8")


def _section(section: Section, metric: str, number: int) -> dict[str, Any]:
    runs = [run for variant in section.variants for run in variant.runs]
    return {
        "id": f"section-{number}",
        "title": section.title,
        "words": section.description(),
        "warnings": section.warnings,
        "tables": [_table(table) for table in section.shown],
        "figures": [_figure(figure) for figure in printable(figures(section, metric))],
        "cells": [printable(_cell(run)) for run in runs],
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "heading": table.heading,
        "spanner": table.spanner,
        "columns": table.columns,
        "blocks": [(block.capitalize(), [_row(table, row) for row in rows]) for block, rows in table.blocks()],
        "footnotes": table.footnotes,
        "remarks": table.remarks,
        "sortable": len(table.rows) > 1,
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    cells = [row.cells[column.key] for column in table.columns]
    return {"label": row.label, "notes": _numbers(row.notes), "cells": [_shown(cell) for cell in cells]}


def _shown(cell: TableCell) -> dict[str, Any]:
    """Return what is shown of a cell; `sort` is empty where there is no figure."""
    return {
        "text": cell.prefix + cell.text,
        "spread": cell.spread,
        "mark": "best" if cell.best else "second" if cell.second else "",
        "dagger": cell.dagger,
        "notes": _numbers(cell.notes),
        "sort": "" if cell.mean is None else repr(float(cell.mean)),
        "noise": "; ".join(cell.noise),
    }


def _numbers(notes: Sequence[int]) -> str:
    return ",".join(str(note + 1) for note in notes)


def _figure(figure: Figure) -> dict[str, Any]:
    drawn = Markup(svg.draw(figure))  # noqa: S704 - escaped there
    legend = [(Markup(svg.key(series, figure.joined)), series.label) for series in figure.series]  # noqa: S704 - holds no text
    return {"title": figure.title, "note": figure.note, "drawn": drawn, "legend": legend}


def _cell(run: StoredRun) -> dict[str, Any]:
    """Return what is said of one cell."""
    record, definition = run.record, run.record.definition
    settings = changed_settings(run)
    facts = {
        "Command": "" if record.imported else command(definition, record.changes),
        "Imported": f"from {record.imported['file']}, sha256 {record.imported['sha256']}" if record.imported else "",
        "Settings": _words(definition.config),
        "Training": _words(definition.training or {}),
        "Machine": hardware_words(record),
        "Software": _words({name: value for name, value in record.environment.items() if name in SOFTWARE}),
        "Code": f"of its own, {definition.source}" if definition.source else "",
        "Data": f"{definition.dataset}, sha256 of the prepared interactions {definition.fingerprint}",
        "Protocol": definition.protocol.words(),
        "Started": f"{record.started}, {record.seconds:,.0f} s",
        "Folder": "" if run.folder is None else str(run.folder),
        "Failure": f"{record.failure['kind']}: {record.failure['message']}" if record.failure else "",
        "Trained": _trained(run),
        "Test": _words(record.accuracy),
        "Validation": _words(record.validation),
    }
    title = f"{display_name(definition.model)}{f' ({settings})' if settings else ''}, seed {definition.seed}"
    return {"title": title, "status": record.status, "facts": [fact for fact in facts.items() if fact[1]]}


def command(definition: Definition, changes: Changes | None) -> str:
    """Return the command that runs a cell again, on a machine like its own."""
    protocol = definition.protocol
    words = ["seqbench", "run", "--models", definition.model, "--datasets", definition.dataset]
    if definition.world_size > 1:
        words[:1] = ["torchrun", "--nproc-per-node", str(definition.world_size), "-m", "seqbench"]
    words += ["--seeds", str(definition.seed), "--protocol", protocol.name, "--split", protocol.split]
    words += ["--max-len", str(protocol.max_len), "--device", definition.device]
    if protocol.request_time:
        words.append("--request-time")
    if definition.backend is not None:
        words += ["--backend", definition.backend]
    if definition.precision != FULL:
        words += ["--precision", definition.precision]
    parts: list[Any] = [] if changes is None else [changes.get("config"), changes.get("training")]
    for field, value in (item for part in parts for item in (part or {}).items()):
        text = value if isinstance(value, str) else json.dumps(value)
        words += ["--set", f"{definition.model}.{field}={text}"]
    return shlex.join(words)


def _trained(run: StoredRun) -> str:
    training = run.record.training
    if training is None:
        return ""
    ended = "stopped early" if training["stopped_early"] else "ended at its limit of epochs"
    return f"{training['epochs']} epochs, the best was {training['best_epoch']}; {ended}"


def _words(values: Mapping[str, Any]) -> str:
    """Write names and values that are known."""
    return ", ".join(f"{name} {_word(value)}" for name, value in values.items() if value is not None)


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_words(value)})"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
