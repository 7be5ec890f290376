"""The plan of a run, as `seqbench run --dry-run` shows it."""

from rich.table import Table
from rich.text import Text

from seqbench.planning import Plan
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
    table.caption = f"{len(plan.cells)} cells, {len(plan.todo)} of them not finished."
    table.caption_justify = "left"
    return table
