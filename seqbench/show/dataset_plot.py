"""Plot of a data set: how long the sequences are, and how popular the items."""

from pathlib import Path

import numpy as np

from seqbench.columns import ITEM, USER
from seqbench.data.prepared import PreparedDataset
from seqbench.show import plotting


def plot(prepared: PreparedDataset, path: Path) -> None:
    """Draw how long the sequences are and how popular the items, to a PNG, SVG or PDF.

    Raises:
        UsageError: matplotlib is not installed, or does not know the ending of `path`.
        StorageError: the file cannot be written.
    """
    plotting.check(path)
    from matplotlib.ticker import PercentFormatter

    log = prepared.load()
    lengths, popularity = np.bincount(log[USER])[1:], np.sort(np.bincount(log[ITEM])[1:])[::-1]
    with plotting.figure(plotting.WIDE, 2.8) as figure:
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
        left.set(xscale="log", xlabel="interactions", ylabel="users with at least as many", ylim=(0, 1))
        left.yaxis.set_major_formatter(PercentFormatter(1))
        right.plot(np.arange(1, len(popularity) + 1), popularity)
        right.set(xscale="log", yscale="log", xlabel="popularity rank of the item", ylabel="interactions of the item")
        for axis, low, high in (
            (left.xaxis, lengths.min(), lengths.max()),
            (right.xaxis, 1, len(popularity)),
            (right.yaxis, popularity[-1], popularity[0]),
        ):
            plotting.log_ticks(axis, low, high)
        figure.suptitle(
            f"{prepared.name}: {prepared.users:,} users, {prepared.items:,} items, "
            f"{prepared.interactions:,} interactions"
        )
        plotting.save(figure, path)
