"""Cost tables: what training took, and latency against length. One table per hardware, never a mixture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seqbench.report import numbers
from seqbench.report.model import FAILED, MODES, NOT_APPLICABLE, Cell, Column, Row, Table
from seqbench.report.variants import Variant, group_variants
from seqbench.results import Record

STATISTICS = ("p50", "p95", "p99")


@dataclass(frozen=True)
class _Quantity:
    column: Column
    scale: numbers.Scale
    read: Callable[[Record], Any]
    with_spread: bool = True


def _cost(key: str) -> Callable[[Record], Any]:
    return lambda record: record.cost.get(key)


def _quantity(
    key: str,
    title: str,
    direction: Literal["up", "down"] | None,
    scale: numbers.Scale,
    read: Callable[[Record], Any] | None = None,
    with_spread: bool = True,
) -> _Quantity:
    column = Column(key=key, title=title, direction=direction, base_unit=scale[0][0])
    return _Quantity(column, scale, read or _cost(key), with_spread)


QUANTITIES = (
    # More parameters are neither better nor worse: no direction, and the same for every seed.
    _quantity("parameters", "Parameters", None, numbers.PLAIN, with_spread=False),
    _quantity("epoch_seconds", "Epoch", "down", numbers.SECONDS),
    _quantity("train_interactions_per_second", "Interactions", "up", numbers.RATE),
    _quantity(
        "seconds_to_best",
        "Time to best",
        "down",
        numbers.SECONDS,
        lambda record: (record.training or {}).get("seconds_to_best"),
    ),
    _quantity("fit_seconds", "Fit", "down", numbers.SECONDS),
    _quantity("peak_memory_bytes", "Peak memory", "down", numbers.BYTES),
)


def hardware_words(record: Record) -> str:
    """The device, the machine around it and the threads: what a cost depends on."""
    environment = record.environment
    device = environment.get("cpu") or environment.get("machine") or "unknown CPU"
    if record.definition.device != "cpu":
        device = f"{environment.get('device_name') or record.definition.device}, {device}"
    machine = str(environment.get("machine") or "")
    words = [machine] if device in machine else [device]
    if threads := environment.get("threads"):
        words.append(f"{threads} thread{'' if threads == 1 else 's'}")
    return ", ".join(words)


def cost_tables(records: Sequence[Record], model_order: Sequence[str]) -> list[Table]:
    """Training cost and latency tables, per hardware."""
    tables = []
    for hardware in sorted({hardware_words(record) for record in records}):
        # Labels come from all the records: a row has the same name here as in the accuracy table.
        variants = [
            Variant(variant.model, variant.configuration, tuple(here))
            for variant in group_variants(records, model_order)
            if (here := [record for record in variant.records if hardware_words(record) == hardware])
        ]
        tables += [_training_table(variants, hardware)]
        tables += [_latency_table(variants, hardware, statistic) for statistic in STATISTICS]
    return [table for table in tables if table.rows and table.columns]


def _training_table(variants: Sequence[Variant], hardware: str) -> Table:
    table = Table("cost", "Training cost", [], hardware=hardware)
    table.rows = [Row(variant.model, variant.configuration, {}) for variant in variants]
    for quantity in QUANTITIES:
        measured = [_values(variant.finished, quantity.read) for variant in variants]
        if not any(measured):
            continue
        unit, factor = numbers.choose_unit(quantity.scale, [v for each in measured for v in each.values()])
        column = quantity.column
        table.columns.append(Column(column.key, column.title, column.direction, column.base_unit, unit))
        for row, variant, values in zip(table.rows, variants, measured, strict=True):
            if values:
                cell = numbers.cost_cell(values, factor, quantity.with_spread)
            elif variant.finished:
                cell = Cell(NOT_APPLICABLE)
            else:
                cell = Cell(FAILED, notes=[table.note(variant.failure_words())])
            row.cells[column.key] = cell
    for row, variant in zip(table.rows, variants, strict=True):
        if words := variant.training_words():
            row.notes.append(table.note(words))
        if variant.failed and variant.finished:
            row.notes.append(table.note(variant.failure_words()))
    table.mark()
    return table


def _latency_table(variants: Sequence[Variant], hardware: str, statistic: str) -> Table:
    measured = [(variant, entry) for variant in variants for entry in _entries(variant.finished, "latency")]
    skipped = [(variant, entry) for variant in variants for entry in _entries(variant.finished, "latency_skipped")]
    lengths = sorted({entry["length"] for _, entry in [*measured, *skipped]} - {None})
    batches = sorted({entry["batch"] for _, entry in [*measured, *skipped]})
    table = Table("latency", "Latency", [], hardware=hardware, statistic=statistic)
    table.data_only = statistic != "p50"
    table.columns = [Column(str(length), f"{length:,}", "down", "ms") for length in lengths]
    for batch in batches:
        for mode in MODES:
            for variant in variants:
                cells = {
                    str(length): _latency_cell(table, variant, (mode, batch, length), f"{statistic}_ms")
                    for length in lengths
                }
                if any(cell is not None for cell in cells.values()):
                    kept = {key: cell or Cell(NOT_APPLICABLE) for key, cell in cells.items()}
                    table.rows.append(Row(variant.model, variant.configuration, kept, mode=mode, batch=batch))
    table.mark()
    return table


def _latency_cell(table: Table, variant: Variant, point: tuple[str, int, int], key: str) -> Cell | None:
    def value(record: Record) -> Any:
        entries = record.cost.get("latency") or []
        return next((entry.get(key) for entry in entries if _is_at(entry, point)), None)

    if values := _values(variant.finished, value):
        return numbers.cost_cell(values, 1.0, with_spread=False)
    reasons = [e["reason"] for e in _entries(variant.finished, "latency_skipped") if _is_at(e, point)]
    return Cell(FAILED, notes=[table.note(reasons[0])]) if reasons else None


def _entries(records: Iterable[Record], key: str) -> list[dict[str, Any]]:
    return [entry for record in records for entry in record.cost.get(key) or []]


def _is_at(entry: dict[str, Any], point: tuple[str, int, int]) -> bool:
    """Whether an entry is the figure for a point; one without a length is the same at every length."""
    mode, batch, length = point
    return entry["mode"] == mode and entry["batch"] == batch and entry["length"] in (length, None)


def _values(records: Iterable[Record], read: Callable[[Record], Any]) -> dict[str, float]:
    """Seed → value, for the records that have one."""
    found = ((str(record.definition.seed), numbers.number(read(record))) for record in records)
    return {seed: value for seed, value in found if value is not None}
