"""The table of `seqbench list runs`."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from seqbench.errors import SeqbenchError
from seqbench.results import Record
from seqbench.show.numbers import METRIC_DECIMALS, fixed, number
from seqbench.show.text import printable

METRIC = "ndcg@10"
KEY_DIGITS = 7  # enough to find the folder


def runs_table(records: Sequence[Record], errors: Sequence[SeqbenchError]) -> Table:
    """Show one line per stored cell; records that cannot be read are named below."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("Data set", "Model"):
        table.add_column(title)
    table.add_column("Seed", justify="right", no_wrap=True)
    for title in ("Key", "Status"):
        table.add_column(title, no_wrap=True)
    table.add_column(METRIC.upper(), justify="right", no_wrap=True)
    table.add_column("Started")  # wraps between day and time
    table.add_column("Seconds", justify="right", no_wrap=True)
    for record in records:
        definition = record.definition
        value = number(record.accuracy.get(METRIC))
        table.add_row(
            Text(printable(definition.dataset)),
            Text(printable(definition.model)),
            str(definition.seed),
            definition.key[:KEY_DIGITS],
            Text(printable(record.status)),
            "" if value is None else fixed(value, METRIC_DECIMALS),
            Text(printable(record.started[:16].replace("T", " "))),
            f"{record.seconds:.0f}",
        )
    if errors:
        table.caption = Text(printable("\n".join(error.message for error in errors)), style="not dim not italic")
        table.caption_justify = "left"
    return table
