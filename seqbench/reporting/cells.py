"""Cells of a report from the figures of single seeds."""

from collections.abc import Mapping

from seqbench.evaluation.statistics import summarise
from seqbench.reporting.document import TableCell
from seqbench.show.numbers import METRIC_DECIMALS, decimals_for, fixed


def metric_cell(values: Mapping[str, float], decimals: int = METRIC_DECIMALS) -> TableCell:
    """Make the cell of a ranking metric over seeds."""
    return _cell(values, 1.0, decimals)


def cost_cell(values: Mapping[str, float], factor: float, with_spread: bool = True) -> TableCell:
    """Make the cell of a cost over seeds, shown in units of `factor` base units with three significant digits."""
    mean = summarise(values.values()).mean
    cell = _cell(values, factor, decimals_for((mean or 0.0) / factor))
    if not with_spread:
        cell.spread = ""
    return cell


def _cell(values: Mapping[str, float], factor: float, decimals: int) -> TableCell:
    summary = summarise(values.values())
    assert summary.mean is not None, "a cell is made of at least one value"
    return TableCell(
        text=fixed(summary.mean / factor, decimals),
        spread="" if summary.std is None else fixed(summary.std / factor, decimals),
        values=dict(values),
        mean=summary.mean,
        std=summary.std,
        n=summary.n,
    )
