"""The plan of a run, as `seqbench run --dry-run` shows it."""

from rich.table import Table
from rich.text import Text

from seqbench.planning import Plan
from seqbench.results.estimates import Estimates
from seqbench.show.numbers import BYTES, choose_unit
from seqbench.show.progress import duration
from seqbench.show.text import printable

WORDS = {
    "finished": "finished, skipped",
    "resumable": "to be resumed",
    "new": "to be run",
    "forced": "to be run again",
}


def plan_table(plan: Plan) -> Table:
    """Return what a run would do, one line per cell."""
    table = Table(title=Text(printable(f"Plan for {plan.results}")), title_justify="left", box=None, pad_edge=False)
    for title in ("Data set", "Model", "Seed", "Device", "Backend", "Precision", "Key", "State"):
        table.add_column(title)
    for cell in plan.cells:
        d = cell.definition
        what = d.dataset, d.model, str(d.seed), d.device, d.backend or "", d.precision, d.key[:7]
        table.add_row(*what, WORDS[cell.state])
    table.caption = f"{len(plan.cells)} cells, {len(plan.todo)} of them not finished. {_estimate(plan)}".strip()
    table.caption_justify = "left"
    return table


def _estimate(plan: Plan) -> str:
    """Say how long the cells that are left take at most, and how much memory, by the finished ones like them."""
    estimates = Estimates.of(plan.results)
    left = [cell.definition for cell in plan.todo]
    known = [definition for definition in left if estimates.knows(definition)]
    if not known:
        return ""
    seconds = sum(estimates.epoch(each) * (each.training["epochs"] if each.training else 1) for each in known)
    peak = max(map(estimates.memory, known))
    unit, factor = choose_unit(BYTES, [peak])
    unknown = len(left) - len(known)
    return (
        f"At most {duration(seconds)}, if no training stops early, and {peak / factor:.3g} {unit} of memory, by "
        f"finished cells of the same kind{f'; {unknown} have none' if unknown else ''}."
    )
