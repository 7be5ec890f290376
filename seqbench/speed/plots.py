"""A dot plot of the ratios: one row for each operator and shape, one mark for each competitor, at a paper's width."""

from pathlib import Path
from typing import Any

from seqbench.errors import UsageError
from seqbench.files import replacing
from seqbench.speed.benchmark import COPY, PASSES, PLAIN, Benchmark, Case
from seqbench.speed.summary import machine, quantiles

SUFFIXES = (".png", ".svg", ".pdf")
INSTALL = "Install it with: pip install 'seqbench[plot]'"
WIDTH = 7.0  # inches: two columns of a paper
ROW = 0.26
MARGIN = 1.25  # inches above and below the rows
DPI = 200
# The colours of Okabe and Ito, which differ for everybody; marks differ too, for print without colour.
STYLES = [
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
    ("#999999", "*"),
]


def check(path: Path) -> None:
    """Find out before the measurement that there will be no plot.

    Raises:
        UsageError: matplotlib is missing, or the file's name ends in something else than SUFFIXES.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--plot takes a file that ends in {', '.join(SUFFIXES)}, not '{path}'.", hint="--plot speed.svg"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("--plot needs matplotlib, which is not installed.", hint=INSTALL) from None


def draw(benchmark: Benchmark, path: Path) -> None:
    """Write the plot to a file of one of SUFFIXES.

    Raises:
        StorageError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = {
        baseline: [case for case in benchmark.cases if case.workload.baseline == baseline] for baseline in (COPY, PLAIN)
    }
    rows = {baseline: list(dict.fromkeys(map(_label, cases))) for baseline, cases in panels.items() if cases}
    names = list(
        dict.fromkeys(
            e.name for case in benchmark.cases for e in case.entries if e.ratios and e.name not in (COPY, PLAIN)
        )
    )
    styles = {name: STYLES[index % len(STYLES)] for index, name in enumerate(names)}
    settings: Any = {"font.size": 8, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "seqbench"}
    with matplotlib.rc_context(settings):
        figure = Figure(
            figsize=(WIDTH, MARGIN + ROW * sum(map(len, rows.values())) + 0.45 * len(rows)), layout="constrained"
        )
        grid = figure.subplots(
            len(rows),
            len(PASSES),
            squeeze=False,
            sharex="row",
            sharey="row",
            height_ratios=[len(r) + 0.6 for r in rows.values()],
        )
        for axes, (baseline, labels) in zip(grid, rows.items(), strict=True):
            for axis, passes in zip(axes, PASSES, strict=True):
                _panel(axis, [case for case in panels[baseline] if case.passes == passes], labels, styles)
                axis.set_xlabel(
                    f"time relative to {'a copy of as many bytes' if baseline == COPY else 'the plain form'}"
                )
        for axis, passes in zip(grid[0], PASSES, strict=True):
            axis.set_title(passes.replace("+", " + "), fontsize=9)
        handles = {handle.get_label(): handle for axis in grid.flat for handle in axis.get_legend_handles_labels()[0]}
        shown = [name for name in names if name in handles]
        figure.legend(
            [handles[name] for name in shown],
            shown,
            loc="outside upper center",
            ncols=min(5, len(shown) or 1),
            frameon=False,
        )
        figure.supxlabel(machine(benchmark.request), fontsize=7, color="#555555")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DPI, format=path.suffix[1:].lower())


def _label(case: Case) -> str:
    return f"{case.workload.name}  {'×'.join(map(str, case.shape))}"


def _panel(axis: Any, cases: list[Case], labels: list[str], styles: dict[str, tuple[str, str]]) -> None:
    """Medians as marks, the middle half of the rounds as a line behind them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for case in cases:
        y = labels.index(_label(case))
        for entry in case.entries:
            spread = quantiles(entry.ratios)
            if spread is None or entry.name not in styles:
                continue
            color, mark = styles[entry.name]
            axis.plot([spread["p25"], spread["p75"]], [y, y], color=color, linewidth=2.5, alpha=0.35, zorder=2)
            axis.plot(
                spread["median"], y, mark, color=color, markersize=5, label=entry.name, zorder=3, markeredgewidth=0
            )
    axis.axvline(1, color="#333333", linewidth=0.8, zorder=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.grid(axis="x", color="#eeeeee", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
