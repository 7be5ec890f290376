"""Cost tables: what training took, and latency against length. One table per hardware, never a mixture."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seqbench.reporting.cells import cost_cell
from seqbench.reporting.document import FAILED, MODES, NOT_APPLICABLE, Column, Row, Table, TableCell
from seqbench.reporting.variants import Variant, seed_list
from seqbench.results import Record
from seqbench.show import numbers

STATISTICS = ("p50", "p95", "p99")
THROUGHPUT = "train_interactions_per_second"
CLOCKED = ("epoch_seconds", "seconds_to_best", "fit_seconds")


@dataclass(frozen=True)
class _Quantity:
    column: Column
    scale: numbers.Scale
    read: Callable[[Record], Any]
    with_spread: bool = True
    conditions: Literal["conditions", "fit_conditions"] | None = None  # that it was measured in; None: it is counted


def _cost(key: str) -> Callable[[Record], Any]:
    return lambda record: record.cost.get(key)


def _quantity(
    key: str,
    title: str,
    direction: Literal["up", "down"] | None,
    scale: numbers.Scale,
    read: Callable[[Record], Any] | None = None,
    with_spread: bool = True,
    conditions: Literal["conditions", "fit_conditions"] | None = None,
) -> _Quantity:
    column = Column(key=key, title=title, direction=direction, base_unit=scale[0][0])
    return _Quantity(column, scale, read or _cost(key), with_spread, conditions)


def _seconds_to_best(record: Record) -> float | None:
    """Return the seconds of training up to the end of the best epoch, on the clock of Epoch and Fit: no validation."""
    training = record.training
    if training is None or not training["history"]:
        return None
    return float(sum(entry["train_seconds"] for entry in training["history"][: training["best_epoch"]]))


QUANTITIES = (
    # More parameters are neither better nor worse: no direction, and the same for every seed.
    _quantity("parameters", "Parameters", None, numbers.PLAIN, with_spread=False),
    _quantity("epoch_seconds", "Epoch", "down", numbers.SECONDS, conditions="conditions"),
    _quantity(THROUGHPUT, "Interactions", "up", numbers.RATE, conditions="conditions"),
    _quantity(
        "seconds_to_best",
        "Time to best",
        "down",
        numbers.SECONDS,
        _seconds_to_best,
    ),
    _quantity("fit_seconds", "Fit", "down", numbers.SECONDS, conditions="fit_conditions"),
    _quantity("peak_memory_bytes", "Peak memory", "down", numbers.BYTES),
)


def hardware_words(record: Record) -> str:
    """Name what costs depend on: the GPU and its memory, or the CPU, its cores and threads and the memory beside it."""
    environment = record.environment
    if record.definition.device != "cpu":
        device = environment.get("device_name") or record.definition.device
        size, counted = environment.get("device_memory_bytes"), []
    else:
        device, size = environment.get("cpu") or "unknown CPU", environment.get("memory_bytes")
        counted = [(environment.get("cores"), "core"), (environment.get("threads"), "thread")]
    words = [f"{number} {word}{'' if number == 1 else 's'}" for number, word in counted if number]
    if size:
        words.append(f"{size / 2**30:.0f} GiB")
    return ", ".join([device, *words])


def cost_tables(variants: Sequence[Variant], seeds: Sequence[int]) -> list[Table]:
    """Make tables of what training took, per hardware; `seeds` are those of the whole section."""
    return _shown(_training_table(here, seeds, hardware) for hardware, here in _by_hardware(variants))


def latency_tables(variants: Sequence[Variant], seeds: Sequence[int]) -> list[Table]:
    """Make tables of latency against length, per hardware and statistic."""
    return _shown(
        _latency_table(here, seeds, hardware, statistic)
        for hardware, here in _by_hardware(variants)
        for statistic in STATISTICS
    )


def _by_hardware(variants: Sequence[Variant]) -> Iterator[tuple[str, list[Variant]]]:
    for hardware in sorted({hardware_words(record) for variant in variants for record in variant.records}):
        here = (
            Variant(variant.model, variant.configuration, runs)
            for variant in variants
            if (runs := tuple(run for run in variant.runs if hardware_words(run.record) == hardware))
        )
        # Counting is cheaper than any training, and stands apart: else it would have all marks.
        yield hardware, sorted(here, key=lambda variant: not variant.trained)


def _shown(tables: Iterable[Table]) -> list[Table]:
    return [table for table in tables if table.rows and table.columns]


def _training_table(variants: Sequence[Variant], seeds: Sequence[int], hardware: str) -> Table:
    table = Table("cost", "Training cost", [], hardware=hardware)
    table.rows = [Row(variant.model, variant.configuration, {}, ranked=variant.trained) for variant in variants]

    for quantity in QUANTITIES:
        measured = [_values(variant.finished, quantity.read) for variant in variants]
        if not any(measured):
            continue
        unit, factor = numbers.choose_unit(quantity.scale, [v for each in measured for v in each.values()])
        column = quantity.column
        table.columns.append(Column(column.key, column.title, column.direction, column.base_unit, unit))
        for row, variant, values in zip(table.rows, variants, measured, strict=True):
            if values:
                cell = cost_cell(values, factor, quantity.with_spread)
                _flag(table, cell, _disturbances(variant.finished, quantity.conditions))
            elif quantity.column.key == THROUGHPUT and any(record.training for record in variant.finished):
                cell = TableCell(FAILED, notes=[table.note("too few steps to time")])
            elif variant.finished:
                cell = TableCell(NOT_APPLICABLE)
            else:
                cell = TableCell(FAILED, notes=[table.note(variant.failure_words())])
            row.cells[column.key] = cell
    for row, variant in zip(table.rows, variants, strict=True):
        row.notes = [table.note(words) for words in variant.remarks(seeds)]
    if any(column.key in CLOCKED for column in table.columns):
        table.remarks.append("Epoch, Time to best and Fit count the steps of training only, without validation.")
    table.mark()
    return table


def _latency_table(variants: Sequence[Variant], seeds: Sequence[int], hardware: str, statistic: str) -> Table:
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
                entries = _entries(variant.finished, "latency")
                points = {length: _latencies(variant, (mode, batch, length), statistic) for length in lengths}
                if any(values or missing for values, missing in points.values()):
                    cells = {str(length): _latency_cell(table, *point) for length, point in points.items()}
                    for length in lengths:
                        noise = _noise(variant.finished, (mode, batch, length))
                        _flag(table, cells[str(length)], noise)
                    row = Row(variant.model, variant.configuration, cells, mode, batch, ranked=variant.trained)
                    row.notes = [table.note(words) for words in variant.seed_remarks(seeds)]
                    # What does not grow takes the same time at every length, and is measured once.
                    if mode == "step" and any(entry["mode"] == mode and entry["length"] for entry in entries):
                        row.notes.append(table.note("the state grows with the history"))
                    row.notes += [
                        table.note(f"at length {length:,} without {seed_list(without)}: {reason}")
                        for length, (values, missing) in points.items()
                        for reason, without in missing.items()
                        if values
                    ]
                    table.rows.append(row)
    if any(cell.n > 1 for row in table.rows for cell in row.cells.values()):
        table.remarks.append(f"Each figure is the mean of the {statistic} of every seed.")
    table.mark()
    return table


def _latencies(
    variant: Variant, point: tuple[str, int, int], statistic: str
) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Return, of one point, seed → figure, and reason → seeds that have none."""
    values: dict[str, float] = {}
    missing: dict[str, list[int]] = {}
    for record in variant.finished:
        seed = record.definition.seed
        for entry in _entries([record], "latency_skipped"):
            if _is_at(entry, point):
                missing.setdefault(entry["reason"], []).append(seed)
        for entry in _entries([record], "latency"):
            if _is_at(entry, point):
                value = numbers.number(entry.get(f"{statistic}_ms"))
                if value is None:
                    missing.setdefault("too few samples", []).append(seed)
                else:
                    values[str(seed)] = value
    return values, missing


def _latency_cell(table: Table, values: dict[str, float], missing: dict[str, list[int]]) -> TableCell:
    if values:
        return cost_cell(values, 1.0, with_spread=False)
    return TableCell(FAILED, notes=[table.note(reason) for reason in missing]) if missing else TableCell(NOT_APPLICABLE)


def _flag(table: Table, cell: TableCell, noise: Sequence[str]) -> None:
    """Mark a figure that was measured while the machine was not quiet, with what disturbed it."""
    if cell.n and noise:
        cell.noisy = True
        cell.notes += [table.note(f"noisy: {words}") for words in noise]


def _disturbances(records: Iterable[Record], key: Literal["conditions", "fit_conditions"] | None) -> list[str]:
    if key is None:
        return []
    found = [words for record in records for words in record.cost.get(key, {}).get("disturbances", [])]
    return list(dict.fromkeys(found))


def _noise(records: Iterable[Record], point: tuple[str, int, int]) -> list[str]:
    """Return what disturbed the measurements of one point of latency."""
    entries = [entry for entry in _entries(records, "latency") if _is_at(entry, point)]
    found = [words for entry in entries for words in entry.get("conditions", {}).get("disturbances", [])]
    if any(entry.get("unsteady") for entry in entries):
        found.append("the middle half of the samples spans more than 30 % of their median")
    return list(dict.fromkeys(found))


def _entries(records: Iterable[Record], key: Literal["latency", "latency_skipped"]) -> list[dict[str, Any]]:
    return [dict(entry) for record in records for entry in record.cost.get(key, [])]


def _is_at(entry: dict[str, Any], point: tuple[str, int, int]) -> bool:
    """Return whether an entry is the figure for a point; one without a length is the same at every length."""
    mode, batch, length = point
    return entry["mode"] == mode and entry["batch"] == batch and entry["length"] in (length, None)


def _values(records: Iterable[Record], read: Callable[[Record], Any]) -> dict[str, float]:
    """Return seed → value, for the records that have one."""
    found = ((str(record.definition.seed), numbers.number(read(record))) for record in records)
    return {seed: value for seed, value in found if value is not None}
