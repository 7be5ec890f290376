"""What people look for in a data set: sizes, lengths, popularity, repeats, times, and what its splits give away."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqbench.data.prepared import Interactions, PreparedDataset
from seqbench.errors import SeqbenchError, storage_error

if TYPE_CHECKING:
    from rich.console import Group

QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "90 %": 0.9, "99 %": 0.99, "max": 1.0}
HEADS = (0.01, 0.1, 0.2)  # shares of the items, the most popular ones
PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


@dataclass(frozen=True)
class Description:
    """Figures of a prepared data set. Shares are of the interactions, unless said otherwise."""

    users: int
    items: int
    interactions: int
    density: float  # interactions over users times items
    mean_length: float
    lengths: dict[str, int]  # quantile → interactions per user
    item_counts: dict[str, int]  # quantile → interactions per item
    heads: dict[str, float]  # most popular items → share
    repeated: float  # the user had met the item before
    repeated_at_once: float  # the user's interaction before was with the same item
    tied: float | None  # the same user has another one at the same time; None without times
    first: str | None  # ISO dates in UTC
    last: str | None
    later_training: float | None  # of the training part of leave-one-out, later than a test target, on average
    new_targets: float  # test targets of leave-one-out whose item is not in the training part


def describe(prepared: PreparedDataset) -> Description:
    """Read a data set and count.

    Raises:
        SeqbenchError: the data set is damaged.
    """
    interactions = prepared.load()
    users, items, times, _ = interactions
    lengths, popularity = np.bincount(users)[1:], np.bincount(items)[1:]
    unit = prepared.meta["timestamp_unit"]
    timed = unit in PER_SECOND
    pairs = np.lexsort((items, users))  # stable: of a pair, the first comes first
    again = (users[pairs][1:] == users[pairs][:-1]) & (items[pairs][1:] == items[pairs][:-1])
    ranked = np.sort(popularity)[::-1]
    later, new = _leave_one_out(interactions, lengths)
    return Description(
        users=prepared.users,
        items=prepared.items,
        interactions=prepared.interactions,
        density=prepared.interactions / prepared.users / prepared.items,
        mean_length=float(lengths.mean()),
        lengths=_quantiles(lengths),
        item_counts=_quantiles(popularity),
        heads={f"{head:.0%}": float(ranked[: max(1, round(head * len(ranked)))].sum() / len(users)) for head in HEADS},
        repeated=float(again.sum() / len(users)),
        repeated_at_once=float(((users[1:] == users[:-1]) & (items[1:] == items[:-1])).sum() / len(users)),
        tied=_tied(users, times) if timed else None,
        first=_date(int(times.min()), unit) if timed else None,
        last=_date(int(times.max()), unit) if timed else None,
        later_training=later if timed else None,
        new_targets=new,
    )


def _quantiles(counts: np.ndarray) -> dict[str, int]:
    values = np.quantile(counts, list(QUANTILES.values()), method="inverted_cdf")
    return {name: int(value) for name, value in zip(QUANTILES, values, strict=True)}


def _tied(users: np.ndarray, times: np.ndarray) -> float:
    order = np.lexsort((times, users))
    same = (users[order][1:] == users[order][:-1]) & (times[order][1:] == times[order][:-1])
    tied = np.zeros(len(users), bool)
    tied[1:] |= same
    tied[:-1] |= same
    return float(tied.mean())


def _leave_one_out(interactions: Interactions, lengths: np.ndarray) -> tuple[float, float]:
    """The mean share of training interactions that are later than a test target; the share of targets that are new."""
    users, items, times, _ = interactions
    last = np.cumsum(lengths) - 1
    tested = last[lengths >= 3]
    if not len(tested):
        return 0.0, 0.0
    training = np.ones(len(users), bool)
    training[tested] = training[tested - 1] = False
    sorted_times = np.sort(times[training])
    later = len(sorted_times) - np.searchsorted(sorted_times, times[tested], side="right")
    met = np.zeros(int(items.max()) + 1, bool)
    met[items[training]] = True
    return float(later.mean() / len(sorted_times)), float((~met[items[tested]]).mean())


def _date(time: int, unit: str) -> str:
    try:
        return datetime.datetime.fromtimestamp(time // PER_SECOND[unit], datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return str(time)


def table(prepared: PreparedDataset, figures: Description) -> "Group":
    """The figures as lines of words and numbers."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    lines.add_column()
    lines.add_column(justify="right", no_wrap=True)
    for words, value in (
        ("users", f"{figures.users:,}"),
        ("items", f"{figures.items:,}"),
        ("interactions", f"{figures.interactions:,}"),
        ("density", f"{figures.density:.3%}"),
        *((f"interactions of the most popular {head} of the items", f"{x:.1%}") for head, x in figures.heads.items()),
        ("interactions with an item that the user had met before", f"{figures.repeated:.1%}"),
        ("interactions with the item of the interaction before", f"{figures.repeated_at_once:.1%}"),
        ("interactions that share user and time with another", _share(figures.tied)),
        ("first day", figures.first or "no times"),
        ("last day", figures.last or "no times"),
        ("leave-one-out: training that is later than a test target, on average", _share(figures.later_training)),
        ("leave-one-out: test targets that are in nobody's training", f"{figures.new_targets:.1%}"),
    ):
        lines.add_row(words, value)
    spread = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("interactions", *QUANTILES, "mean"):
        spread.add_column(title, justify="left" if title == "interactions" else "right")
    per_item = figures.interactions / figures.items
    for words, quantiles, mean in (
        ("per user", figures.lengths, figures.mean_length),
        ("per item", figures.item_counts, per_item),
    ):
        spread.add_row(words, *(f"{value:,}" for value in quantiles.values()), f"{mean:,.1f}")
    heading = Text(f"{prepared.name}: {prepared.meta['title']}, {prepared.filter_words()}", style="bold")
    return Group(heading, lines, Text(), spread)


def _share(value: float | None) -> str:
    return "no times" if value is None else f"{value:.1%}"


def plot(prepared: PreparedDataset, path: Path) -> None:
    """Draw how long the sequences are and how popular the items, to a PNG, SVG or PDF.

    Raises:
        SeqbenchError: matplotlib is not installed, or does not know the ending of `path`.
        StorageError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
    except ImportError as error:
        raise SeqbenchError(
            "Plots need matplotlib, which is not installed.", hint="Run `pip install 'seqbench[plot]'`."
        ) from error
    users, items, *_ = prepared.load()
    lengths, popularity = np.bincount(users)[1:], np.sort(np.bincount(items)[1:])[::-1]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    # How many have at least so many: a histogram over a logarithmic axis would depend on its bins.
    values, counts = np.unique(lengths, return_counts=True)
    left.step(values, counts[::-1].cumsum()[::-1] / len(lengths), where="pre")
    median = int(np.median(lengths))
    left.axvline(median, color="black", linewidth=1, linestyle="--")
    left.annotate(
        f"median {median:,}",
        (median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -12),
        textcoords="offset points",
    )
    left.set(xscale="log", xlabel="interactions", ylabel="users with at least so many", ylim=(0, 1))
    left.yaxis.set_major_formatter(PercentFormatter(1))
    right.plot(np.arange(1, len(popularity) + 1), popularity)
    right.set(xscale="log", yscale="log", xlabel="rank of an item by popularity", ylabel="interactions of the item")
    for axis, low, high in (
        (left.xaxis, lengths.min(), lengths.max()),
        (right.xaxis, 1, len(popularity)),
        (right.yaxis, popularity[-1], popularity[0]),
    ):
        axis.set_major_locator(LogLocator(subs=(1,) if high > 1000 * low else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{prepared.name}: {prepared.users:,} users, {prepared.items:,} items, {prepared.interactions:,} interactions"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise SeqbenchError(f"{path}: {error}.", hint="Give the file the ending .png, .svg or .pdf.") from error
    except OSError as error:
        raise storage_error(error, path) from error
