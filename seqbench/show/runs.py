"""The table of `seqbench list runs`, and the same as plain values."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from seqbench.errors import SeqbenchError
from seqbench.protocol import Protocol
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.variants import changed_settings
from seqbench.show.numbers import METRIC_DECIMALS, fixed, number
from seqbench.show.text import printable

METRIC = "ndcg@10"
KEY_DIGITS = 7  # enough to find the folder


def runs_table(runs: Sequence[StoredRun], errors: Sequence[SeqbenchError]) -> Table:
    """Show one line per stored cell, with protocol and maximum length; unreadable records are named below."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("Data set", "Model", "Protocol"):
        table.add_column(title, overflow="fold")
    table.add_column("Seed", justify="right", no_wrap=True)
    for part in ("Valid.", "Test"):
        table.add_column(f"{part}\n{METRIC.upper()}", justify="right", no_wrap=True)
    for title in ("Started", "Key"):
        table.add_column(title, no_wrap=True)
    for run in runs:
        record = run.record
        definition = record.definition
        settings = changed_settings(run)
        cells = (
            definition.dataset,
            f"{definition.model} ({settings})" if settings else definition.model,
            _protocol(definition.protocol),
            str(definition.seed),
            _figure(record.validation),
            _figure(record.accuracy) if record.finished else record.status,
            record.started[:10],
            _key(run)[:KEY_DIGITS],
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    notes = ["A run's folder is DATA SET/MODEL/KEY… below the results; --json has it in full."]
    notes += [error.message for error in errors]
    table.caption = Text(printable("\n".join(notes)), style="not dim not italic")
    table.caption_justify = "left"
    return table


def runs_values(runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """Return one dict of plain values per stored cell."""
    return [
        {
            "dataset": run.record.definition.dataset,
            "fingerprint": run.record.definition.fingerprint,
            "model": run.record.definition.model,
            "settings": changed_settings(run),
            "seed": run.seed,
            "device": run.record.definition.device,
            "protocol": asdict(run.record.definition.protocol),
            "status": run.record.status,
            "validation": run.record.validation,
            "test": run.record.accuracy,
            "started": run.record.started,
            "seconds": run.record.seconds,
            "failure": run.record.failure,
            "key": _key(run),
            "path": None if run.folder is None else str(run.folder),
        }
        for run in runs
    ]


def _key(run: StoredRun) -> str:
    return run.record.definition.key if run.folder is None else run.folder.name


def _protocol(protocol: Protocol) -> str:
    split = "" if protocol.split == "leave-one-out" else f" {protocol.split}"
    return f"{protocol.name}{split}{', request time' if protocol.request_time else ''}, {protocol.max_len}"


def _figure(metrics: dict[str, float]) -> str:
    value = number(metrics.get(METRIC))
    return "" if value is None else fixed(value, METRIC_DECIMALS)
