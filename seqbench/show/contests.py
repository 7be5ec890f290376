"""The table of `seqbench compare`."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from seqbench.reporting.comparison import Contest
from seqbench.show.text import printable


def contests_table(first: str, second: str, contests: Sequence[Contest]) -> Table:
    """Show one line per data set, protocol and metric."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("Data set", "Protocol", "Metric"):
        table.add_column(title, overflow="fold")
    for title in (printable(first), printable(second), "Difference", "95 % interval", "p", "Better", "Worse"):
        table.add_column(Text(title), justify="right")
    for each in contests:
        decimals = each.measure.metric.decimals
        comparison = each.comparison
        table.add_row(
            Text(printable(each.dataset)),
            Text(printable(f"{each.protocol.name}, {each.protocol.max_len}")),
            each.measure.title,
            *(f"{mean:.{decimals}f}" for mean in each.means),
            f"{comparison.difference:+.{decimals}f}",
            f"{each.interval[0]:+.{decimals}f} … {each.interval[1]:+.{decimals}f}",
            "< 0.001" if each.p < 0.001 else f"{each.p:.3f}",
            *(f"{share:.1%}" for share in _shares(each)),
        )
    users = ", ".join(dict.fromkeys(f"{each.comparison.users:,}" for each in contests))
    seeds = "; ".join(dict.fromkeys(" and ".join(map(str, each.comparison.seeds)) for each in contests))
    table.caption = Text(
        f"{users} users; seeds of each: {seeds}. Interval: bootstrap over users and seeds. p: paired t-test over users "
        f"with the variance between seeds, Holm over {len(contests)}. Better, worse: users for whom the first is so.",
        style="not dim not italic",
    )
    table.caption_justify = "left"
    return table


def _shares(contest: Contest) -> tuple[float, float]:
    """Return the shares of users for whom the first model is better and worse."""
    larger, smaller = contest.comparison.better, contest.comparison.worse
    return (larger, smaller) if contest.measure.metric.direction == "up" else (smaller, larger)
