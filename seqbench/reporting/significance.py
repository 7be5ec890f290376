"""Which differences of an accuracy table are more than chance: daggers, and who shares the mark of the best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqbench.evaluation.metrics import Measure
from seqbench.evaluation.statistics import Comparison, Floats, compare, holm
from seqbench.reporting.document import Difference, Row, Table
from seqbench.reporting.variants import Variant

LEVEL = 0.05
DAGGERS = ((0.01, "‡"), (LEVEL, "†"))  # adjusted p below → mark; the smallest first

# Yardsticks: what the papers of the other models compare themselves with.
BASELINES = ("popularity", "markov", "gru4rec", "sasrec", "mamba4rec")


@dataclass
class _Values:
    """Users and values of one row in one column, seed by seed."""

    row: Row
    users: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    values: Floats  # (S, U)

    def against(self, other: "_Values") -> Comparison | None:
        """Compare with another row; None where it is not about the same users."""
        if not np.array_equal(self.users, other.users) or len(self.users) < 2:
            return None
        return compare(self.values, other.values)


def mark_accuracy(
    table: Table, variants: Sequence[Variant], measures: Sequence[Measure], baselines: Sequence[str] = BASELINES
) -> None:
    """Mark the best and second of every column, and what is better than the best baseline; say how in the table.

    The mark of the best is shared by what does not differ from it significantly (Holm over the column). A dagger says
    that a model is better than the baseline with the best mean of the column (Holm over the whole table). Without ranks
    there is no test: figures that read the same share a mark, and there are no daggers.

    Args:
        table: an accuracy table, one row for each variant and then perhaps others.
        measures: those of its columns.
        baselines: models that the others are compared with.
    """
    table.mark()
    found: list[tuple[Row, str, str, Comparison, int]] = []
    tested = False
    for measure in measures:
        sign = 1 if measure.metric.direction == "up" else -1
        columns = [
            values
            for row, variant in zip(table.rows, variants, strict=False)
            if row.ranked and (values := _values(row, variant, measure))
        ]
        columns.sort(key=lambda each: -sign * float(each.values.mean()))
        tested = _share_best(columns, measure) or tested
        base = next((each for each in columns if each.row.model in baselines), None)
        for each in columns if base else ():
            assert base is not None
            if each.row.model not in baselines and (comparison := each.against(base)):
                found.append((each.row, measure.key, base.row.label, comparison, sign))
    for (row, key, baseline, comparison, sign), p in zip(found, holm([each[3].p for each in found]), strict=True):
        cell = row.cells[key]
        cell.difference = Difference(
            baseline=baseline,
            value=comparison.difference,
            relative=comparison.relative,
            low=comparison.low,
            high=comparison.high,
            p=comparison.p,
            p_holm=p,
            better=comparison.better if sign > 0 else comparison.worse,
            worse=comparison.worse if sign > 0 else comparison.better,
        )
        if sign * comparison.difference > 0:
            cell.dagger = next((mark for level, mark in DAGGERS if p < level), "")
    if tested:
        table.remarks.append("The mark of the best is shared by what does not differ from it significantly (p ≥ 0.05).")
    if found:
        best = ", ".join(dict.fromkeys(each[2] for each in found))
        several = "s" if len(found) > 1 else ""
        table.remarks.append(
            f"† p < 0.05, ‡ p < 0.01: better than the best baseline of the column ({best}); paired t-test over users "
            f"with the variance between seeds, Holm over {len(found)} comparison{several}."
        )


def _values(row: Row, variant: Variant, measure: Measure) -> _Values | None:
    """Collect the values of all finished seeds; None if any has no ranks."""
    runs = [run for run in variant.runs if run.record.finished]
    ranks = [run.ranks() for run in runs]
    users = [each.users for each in ranks if each is not None]
    if not runs or len(users) < len(runs) or not all(np.array_equal(users[0], each) for each in users):
        return None
    values = [each for run in runs if (each := run.per_user(measure)) is not None]
    return _Values(row, users[0], np.stack(values)) if len(values) == len(runs) else None


def _share_best(ordered: Sequence[_Values], measure: Measure) -> bool:
    """Let rows that do not differ significantly from the best share its mark; return whether any could be compared.

    Args:
        ordered: best first.
    """
    if len(ordered) < 2:
        return False
    leader = ordered[0]
    comparisons = [leader.against(each) for each in ordered[1:]]
    if any(comparison is None for comparison in comparisons):
        return False
    adjusted = holm([comparison.p for comparison in comparisons if comparison])
    others = [each for each, p in zip(ordered[1:], adjusted, strict=True) if p < LEVEL]
    apart = {id(each.row) for each in others}
    for each in ordered:
        cell = each.row.cells[measure.key]
        cell.best = bool(others) and id(each.row) not in apart
        cell.second = bool(others) and not cell.best and cell.text == others[0].row.cells[measure.key].text
    return True
