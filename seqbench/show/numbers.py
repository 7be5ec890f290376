"""Write numbers: fixed decimals, three significant digits, units, quantiles."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SIGNIFICANT = 3
METRIC_DECIMALS = 4
SMALLEST = 1e-4  # of `significant`: what is smaller has the same number of decimals
SMALLEST_DECIMALS = 6

Scale = tuple[tuple[str, float], ...]  # unit → how many base units it holds, ascending

PLAIN: Scale = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
RATE: Scale = (("/s", 1.0), ("k/s", 1e3), ("M/s", 1e6), ("G/s", 1e9))
BYTES: Scale = (("B", 1.0), ("KiB", 2.0**10), ("MiB", 2.0**20), ("GiB", 2.0**30), ("TiB", 2.0**40))
SECONDS: Scale = (("s", 1.0),)
JOULES: Scale = (("J", 1.0), ("kJ", 1e3), ("MJ", 1e6))


def number(value: Any) -> float | None:
    """Return the value if it is a finite number, else None: NaN and infinity are no measurements."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def choose_unit(scale: Scale, values: Iterable[float]) -> tuple[str, float]:
    """Return one unit for a whole column: the largest that the median value fills."""
    magnitudes = [abs(value) for value in values if value]
    middle = statistics.median(magnitudes) if magnitudes else 0.0
    filled = [unit for unit in scale if unit[1] <= middle]
    return filled[-1] if filled else scale[0]


def decimals_for(value: float) -> int:
    """Count the decimals that leave three significant digits; negative when whole digits are rounded away."""
    if value == 0:
        return 0
    # The exponent after rounding: 9.996 is written 10.0, with one decimal and not two.
    exponent = int(f"{value:.{SIGNIFICANT - 1}e}".partition("e")[2])
    return SIGNIFICANT - 1 - exponent


def fixed(value: float, decimals: int) -> str:
    """Write a value rounded to so many decimals; negative decimals round to tens, hundreds, …"""
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def significant(value: float) -> str:
    """Write a value with three significant digits and no exponent; whole digits are all kept: "12,345", "0.0123".

    Values below 0.0001 get six decimals.
    """
    if abs(value) >= 10 ** (SIGNIFICANT - 1):
        return f"{value:,.0f}"
    if abs(value) < SMALLEST:
        return f"{value:.{SMALLEST_DECIMALS}f}"
    return f"{value:.{max(decimals_for(value), 0)}f}"


def quantiles(values: Sequence[float], at: Mapping[str, float], method: Any = "linear") -> dict[str, float]:
    """Return named quantiles of the values; none of no values.

    Args:
        at: name → share between 0 and 1.
        method: of `numpy.quantile`; "inverted_cdf" returns values that occur.
    """
    if not len(values):
        return {}
    found = np.quantile(values, list(at.values()), method=method)
    return {name: float(value) for name, value in zip(at, found, strict=True)}


def split_at_point(text: str) -> tuple[str, str]:
    """Split before the decimal point, where figures are aligned: "12.5" → ("12", ".5")."""
    whole, point, fraction = text.partition(".")
    return whole, point + fraction
