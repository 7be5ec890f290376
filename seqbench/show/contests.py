"""The tables of `seqbench compare`."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seqbench.evaluation.metrics import Measure
from seqbench.evaluation.statistics import Comparison
from seqbench.reporting.comparison import Contest, GroupContest
from seqbench.show.text import printable


def contests_table(first: str, second: str, contests: Sequence[Contest]) -> RenderableType:
    """Show a table for each data set and protocol, one line per metric."""
    shown: list[RenderableType] = []
    for heading, each in groupby(contests, _heading):
        table = _table("Metric", first, second, "Difference", "95 % interval", "p", "Better", "Worse")
        for contest in each:
            table.add_row(
                contest.measure.title,
                *_figures(contest.measure, contest.means, contest.comparison.difference, contest.interval),
                "< 0.001" if contest.p < 0.001 else f"{contest.p:.3f}",
                *(f"{share:.1%}" for share in _shares(contest.measure, contest.comparison)),
            )
        shown += [Text(heading, style="bold"), table, Text()]
    users = ", ".join(dict.fromkeys(f"{each.comparison.users:,}" for each in contests))
    seeds = "; ".join(dict.fromkeys(" and ".join(map(str, each.comparison.seeds)) for each in contests))
    caption = (
        f"{users} users; seeds of each: {seeds}. Interval: bootstrap over users and seeds. p: paired t-test over users "
        f"with the variance between seeds, Holm over {len(contests)}. Better, worse: users for whom the first is so."
    )
    return Group(*shown, Text(caption))


def groups_table(first: str, second: str, contests: Sequence[GroupContest]) -> RenderableType:
    """Show a table for each data set and protocol, one line per group of users."""
    shown: list[RenderableType] = []
    for heading, each in groupby(contests, _heading):
        table = _table("", "Users", first, second, "Difference", "95 % interval")
        told_by = ""
        for contest in each:
            if contest.told_by != told_by:
                told_by = contest.told_by
                table.add_row(Text(told_by, style="italic"))
            comparison = contest.comparison
            interval = (comparison.low, comparison.high)
            figures = _figures(contest.measure, contest.means, comparison.difference, interval)
            table.add_row(f"  {contest.group}", f"{comparison.users:,}", *figures)
        shown += [Text(f"{heading}: {contest.measure.title} by", style="bold"), table, Text()]
    caption = (
        "Intervals are for each group alone: of 20 groups without a difference, one seems to have one by chance. "
        "Popularity: users who have the item in their training part."
    )
    return Group(*shown, Text(caption))


def _heading(contest: Contest | GroupContest) -> str:
    protocol = contest.protocol
    known = ", time of the request known" if protocol.request_time else ""
    words = f"{contest.dataset}, {protocol.name}, {protocol.split}{known}, maximum length {protocol.max_len}"
    return printable(words)


def _table(title: str, *titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, no_wrap=True)
    for each in titles:  # names of models may be long; figures are not to be cut
        table.add_column(Text(printable(each)), justify="right", overflow="fold")
    return table


def _figures(
    measure: Measure, means: tuple[float, float], difference: float, interval: tuple[float, float]
) -> list[Text]:
    """Write both means, their difference and its interval."""
    decimals = measure.metric.decimals
    words = [f"{mean:.{decimals}f}" for mean in means]
    words += [f"{difference:+.{decimals}f}", " … ".join(f"{end:+.{decimals}f}" for end in interval)]
    return [Text(each, no_wrap=True) for each in words]


def _shares(measure: Measure, comparison: Comparison) -> tuple[float, float]:
    """Return the shares of users for whom the first model is better and worse."""
    larger, smaller = comparison.better, comparison.worse
    return (larger, smaller) if measure.metric.direction == "up" else (smaller, larger)
