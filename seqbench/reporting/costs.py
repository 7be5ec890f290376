"""Cost tables: what training took, and latency against length. One table per hardware, never a mixture."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seqbench.reporting.cells import cost_cell
from seqbench.reporting.document import FAILED, MODES, NOISY, NOT_APPLICABLE, Column, Row, Table, TableCell
from seqbench.reporting.variants import Variant, seed_list
from seqbench.results import Record
from seqbench.results.records import LatencyPoint
from seqbench.show import numbers

STATISTICS = ("p50", "p95", "p99")
THROUGHPUT = "train_interactions_per_second"
UNSTEADY = "the middle half of the samples spans more than 30 % of their median"
CLOCKED = ("epoch_seconds", "seconds_to_best", "fit_seconds")

Point = tuple[str, int, int | None]  # mode, batch, length; no length: the same at every length
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


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
        conditions="fit_conditions",
    ),
    _quantity("fit_seconds", "Fit", "down", numbers.SECONDS, conditions="fit_conditions"),
    _quantity("peak_memory_bytes", "Peak memory", "down", numbers.BYTES),
    _quantity("epoch_joules", "Energy", "down", numbers.JOULES, conditions="conditions"),
)


# Counts, which no machine changes.
SIZES = (
    _quantity("parameters", "Parameters", None, numbers.PLAIN, with_spread=False),
    _quantity("parameters_without_items", "Without items", None, numbers.PLAIN, with_spread=False),
    _quantity("whole_flops", "FLOPs of a history", None, numbers.PLAIN, with_spread=False),
    _quantity("step_flops", "FLOPs of a step", None, numbers.PLAIN, with_spread=False),
    _quantity("state_bytes", "State of a user", None, numbers.BYTES, with_spread=False),
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
    return _shown(
        _quantity_table(Table("cost", "Training cost", [], hardware=hardware), QUANTITIES, here, seeds)
        for hardware, here in by_hardware(variants)
    )


def size_tables(variants: Sequence[Variant], seeds: Sequence[int]) -> list[Table]:
    """Make the table of how large models are, if a record says, with histories of the protocol's length."""
    here = [variant for variant in variants if variant.trained]
    return _shown([_quantity_table(Table("size", "Size", []), SIZES, here, seeds)])


def latency_tables(
    variants: Sequence[Variant], seeds: Sequence[int], percentiles: Sequence[str] = STATISTICS[:1]
) -> list[Table]:
    """Make tables of latency against length, per hardware and statistic; pages show only these percentiles."""
    return _shown(
        _latency_table(measured, seeds, hardware, statistic, data_only=statistic not in percentiles)
        for hardware, here in by_hardware(variants)
        for measured in [[(variant, Points(variant.finished)) for variant in here]]
        for statistic in STATISTICS
    )


class Points:
    """The points of latency of some records: what was measured, and what was skipped for which reason."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._measured: dict[Point, list[tuple[int, LatencyPoint]]] = {}
        self._skipped: dict[Point, list[tuple[int, str]]] = {}
        for record in records:
            seed = record.definition.seed
            for entry in record.cost.get("latency", []):
                self._measured.setdefault((entry["mode"], entry["batch"], entry["length"]), []).append((seed, entry))
            for left in record.cost.get("latency_skipped", []):
                point = (left["mode"], left["batch"], left["length"])
                self._skipped.setdefault(point, []).append((seed, left["reason"]))

    def __iter__(self) -> Iterator[Point]:
        return iter(dict.fromkeys([*self._measured, *self._skipped]))

    def measured(self, mode: str, batch: int, length: int) -> list[tuple[int, LatencyPoint]]:
        """Return seeds and entries; those without a length are the same at every length."""
        return self._measured.get((mode, batch, length), []) + self._measured.get((mode, batch, None), [])

    def skipped(self, mode: str, batch: int, length: int) -> list[tuple[int, str]]:
        """Return seeds and reasons."""
        return self._skipped.get((mode, batch, length), []) + self._skipped.get((mode, batch, None), [])

    def grows(self, mode: str, batch: int) -> bool:
        """Return whether the state that is kept grows with the length."""
        points = {length: each for (*of, length), each in self._measured.items() if of == [mode, batch]}
        sizes = {entry["state_bytes"] for each in points.values() for _, entry in each if "state_bytes" in entry}
        # Before sizes were recorded, only what grows was measured at each length.
        return len(sizes) > 1 or (not sizes and any(length is not None for length in points))


def by_hardware(variants: Sequence[Variant]) -> Iterator[tuple[str, list[Variant]]]:
    """Yield each hardware with the variants' runs on it, trained models first."""
    variants = [variant for variant in variants if not variant.imported]  # which have no costs
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


def _quantity_table(
    table: Table, quantities: Sequence[_Quantity], variants: Sequence[Variant], seeds: Sequence[int]
) -> Table:
    """Fill an empty table with the quantities of which there are figures."""
    table.rows = [Row(variant.model, variant.configuration, {}, ranked=variant.trained) for variant in variants]

    for quantity in quantities:
        measured = [_values(variant.finished, quantity.read) for variant in variants]
        if not any(measured):
            continue
        unit, factor = numbers.choose_unit(quantity.scale, [v for each in measured for v in each.values()])
        column = quantity.column
        table.columns.append(Column(column.key, column.title, column.direction, column.base_unit, unit))
        for row, variant, values in zip(table.rows, variants, measured, strict=True):
            if values:
                cell = cost_cell(values, factor, quantity.with_spread)
                cell.noise = disturbances(variant.finished, quantity.conditions)
                if column.key == "epoch_joules" and any(r.cost.get("epoch_joules_coarse") for r in variant.finished):
                    cell.noise.append("an epoch is shorter than the period of the energy counter")
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
    _remark_noise(table)
    return table


def _latency_table(
    measured: Sequence[tuple[Variant, Points]], seeds: Sequence[int], hardware: str, statistic: str, *, data_only: bool
) -> Table:
    points = {point for _, each in measured for point in each}
    lengths = sorted({length for _, _, length in points if length is not None})
    table = Table("latency", "Latency", [], hardware=hardware, statistic=statistic)
    table.data_only = data_only
    table.columns = [Column(str(length), f"{length:,}", "down", "ms") for length in lengths]
    for batch in sorted({batch for _, batch, _ in points}):
        for mode in MODES:
            for variant, each in measured:
                cells = {length: _latency_cell(each, (mode, batch, length), statistic) for length in lengths}
                if not any(values or missing for _, values, missing in cells.values()):
                    continue
                row = Row(variant.model, variant.configuration, {}, mode, batch, ranked=variant.trained)
                row.notes = [table.note(words) for words in variant.seed_remarks(seeds)]
                if mode == "step" and each.grows(mode, batch):
                    row.notes.append(table.note("the state grows with the history"))
                for length, (cell, values, missing) in cells.items():
                    row.cells[str(length)] = cell
                    for reason, without in missing.items():
                        if values:
                            words = f"at length {length:,} without {seed_list(without)}: {reason}"
                            row.notes.append(table.note(words))
                        else:
                            cell.notes.append(table.note(reason))
                table.rows.append(row)
    if any(cell.n > 1 for row in table.rows for cell in row.cells.values()):
        table.remarks.append(f"Each figure is the mean of the {statistic} of every seed.")
    table.mark()
    _remark_noise(table)
    return table


def _latency_cell(
    points: Points, point: tuple[str, int, int], statistic: str
) -> tuple[TableCell, dict[str, float], dict[str, list[int]]]:
    """Make the cell of one point; also return seed → figure, and reason → seeds that have none."""
    values: dict[str, float] = {}
    missing: dict[str, list[int]] = {}
    noise: list[str] = []
    for seed, reason in points.skipped(*point):
        missing.setdefault(reason, []).append(seed)
    for seed, entry in points.measured(*point):
        value = numbers.number(entry.get(f"{statistic}_ms"))
        if value is None:
            missing.setdefault("too few samples", []).append(seed)
            continue
        values[str(seed)] = value
        noise += entry.get("conditions", {}).get("disturbances", [])
        if entry.get("unsteady"):
            noise.append(UNSTEADY)
    if values:
        cell = cost_cell(values, 1.0, with_spread=False)
        cell.noise = list(dict.fromkeys(noise))
    else:
        cell = TableCell(FAILED if missing else NOT_APPLICABLE)
    return cell, values, missing


def _remark_noise(table: Table) -> None:
    """Say what "~" means, with the worst disturbance of each kind."""
    kinds: dict[str, str] = {}
    for words in (words for row in table.rows for cell in row.cells.values() for words in cell.noise):
        kind = _NUMBER.sub("", words)
        kinds[kind] = max(kinds.get(kind, words), words, key=lambda each: [float(n) for n in _NUMBER.findall(each)])
    if kinds:
        table.remarks.append(
            f"{NOISY} measured while the machine was not quiet, so left out of the marks; at worst: "
            f"{'; '.join(kinds.values())}."
        )


def disturbances(records: Iterable[Record], key: Literal["conditions", "fit_conditions"] | None) -> list[str]:
    """Return what disturbed the measurement of costs, each once."""
    if key is None:
        return []
    found = [words for record in records for words in record.cost.get(key, {}).get("disturbances", [])]
    return list(dict.fromkeys(found))


def _values(records: Iterable[Record], read: Callable[[Record], Any]) -> dict[str, float]:
    """Return seed → value, for the records that have one."""
    found = ((str(record.definition.seed), numbers.number(read(record))) for record in records)
    return {seed: value for seed, value in found if value is not None}
