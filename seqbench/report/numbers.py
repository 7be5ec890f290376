"""How figures are written: four decimals for metrics, three significant digits for costs."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from seqbench.report.model import Cell
from seqbench.stats import summarise

SIGNIFICANT = 3
METRIC_DECIMALS = 4

Scale = tuple[tuple[str, float], ...]  # unit → how many base units it holds, ascending

PLAIN: Scale = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
RATE: Scale = (("/s", 1.0), ("k/s", 1e3), ("M/s", 1e6), ("G/s", 1e9))
BYTES: Scale = (("B", 1.0), ("KiB", 2.0**10), ("MiB", 2.0**20), ("GiB", 2.0**30), ("TiB", 2.0**40))
SECONDS: Scale = (("s", 1.0),)


def number(value: Any) -> float | None:
    """The value if it is a finite number. NaN and infinity are no measurements."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def choose_unit(scale: Scale, values: Iterable[float]) -> tuple[str, float]:
    """One unit for a whole column: the largest that the median value fills."""
    magnitudes = [abs(value) for value in values if value]
    middle = statistics.median(magnitudes) if magnitudes else 0.0
    filled = [unit for unit in scale if unit[1] <= middle]
    return filled[-1] if filled else scale[0]


def decimals_for(value: float) -> int:
    """Decimals that leave three significant digits; negative when whole digits are rounded away."""
    if value == 0:
        return 0
    # The exponent after rounding: 9.996 is written 10.0, with one decimal and not two.
    exponent = int(f"{value:.{SIGNIFICANT - 1}e}".partition("e")[2])
    return SIGNIFICANT - 1 - exponent


def fixed(value: float, decimals: int) -> str:
    """The value rounded to so many decimals; negative decimals round to tens, hundreds, …"""
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def metric_cell(values: Mapping[str, float]) -> Cell:
    """A ranking metric over seeds, with four decimals."""
    return _cell(values, 1.0, METRIC_DECIMALS)


def cost_cell(values: Mapping[str, float], factor: float, with_spread: bool = True) -> Cell:
    """A cost over seeds, shown in units of `factor` base units with three significant digits."""
    mean = summarise(values.values()).mean
    cell = _cell(values, factor, decimals_for((mean or 0.0) / factor))
    if not with_spread:
        cell.spread = ""
    return cell


def _cell(values: Mapping[str, float], factor: float, decimals: int) -> Cell:
    summary = summarise(values.values())
    assert summary.mean is not None, "a cell is made of at least one value"
    return Cell(
        text=fixed(summary.mean / factor, decimals),
        spread="" if summary.std is None else fixed(summary.std / factor, decimals),
        values=dict(values),
        mean=summary.mean,
        std=summary.std,
        n=summary.n,
    )


def split_at_point(text: str) -> tuple[str, str]:
    """The text before the decimal point, and the rest with the point: what alignment is about."""
    whole, point, fraction = text.partition(".")
    return whole, point + fraction
