"""A dot plot of the ratios: one row for each operator and shape, one mark for each competitor, at a paper's width."""

from pathlib import Path
from typing import Any

from seqbench.errors import UsageError
from seqbench.files import replacing
from seqbench.speed.benchmark import COPY, FRESH_COPY, PASSES, PLAIN, Benchmark, Case
from seqbench.speed.summary import machine, quantiles

SUFFIXES = (".png", ".svg", ".pdf")
INSTALL = "Run `pip install 'seqbench[plot]'`."
WIDTH = 7.0  # inches: two columns of a paper
ROW = 0.23
GAP = 0.4  # rows between operators
FINE = 100  # a logarithmic axis that spans less gets ticks at 1, 2 and 5
PANEL = 0.55  # inches of every panel's axis
MARGIN = 0.75  # inches of the legend and the titles
DPI = 200
FRESH = ("#888888", "|")
# The colours of Okabe and Ito, which differ for everybody; marks differ too, for print without colour.
STYLES = [
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
    ("#A6761D", "*"),
]
SETTINGS: Any = {"font.size": 8, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "seqbench"}
RATIO = {COPY: "time ÷ copy of as many bytes", PLAIN: "time ÷ plain form"}
Row = tuple[str, tuple[int, ...]]  # operator, shape


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
        baseline: cases
        for baseline in RATIO
        if (cases := [case for case in benchmark.cases if case.workload.baseline == baseline])
    }
    places = {baseline: _places(cases) for baseline, cases in panels.items()}
    heights = [max(rows.values()) + 1 for rows in places.values()]
    styles = _styles(benchmark)
    with matplotlib.rc_context(SETTINGS):
        height = MARGIN + sum(PANEL + ROW * rows for rows in heights)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        grid = figure.subplots(
            *(len(panels), len(PASSES)),
            squeeze=False,
            sharex="row",
            sharey="row",
            height_ratios=heights,
        )
        for axes, (baseline, cases) in zip(grid, panels.items(), strict=True):
            for axis, passes in zip(axes, PASSES, strict=True):
                _panel(axis, [case for case in cases if case.passes == passes], places[baseline], styles)
                axis.set_xlabel(RATIO[baseline])
        for axis, passes in zip(grid[0], PASSES, strict=True):
            axis.set_title(passes.replace("+", " + "), fontsize=9)
        handles = {handle.get_label(): handle for axis in grid.flat for handle in axis.get_legend_handles_labels()[0]}
        names = [name for name in styles if name in handles]
        legend = figure.legend([handles[name] for name in names], names, loc="outside upper center", ncols=4)
        legend.set_title(machine(benchmark.request))
        legend.set_frame_on(False)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DPI, format=path.suffix[1:].lower())


def _places(cases: list[Case]) -> dict[Row, float]:
    """Where each operator and shape is on the axis, from 0 downwards; operators stand apart."""
    rows = list(dict.fromkeys((case.workload.name, case.shape) for case in cases))
    operators = list(dict.fromkeys(name for name, _ in rows))
    return {row: index + GAP * operators.index(row[0]) for index, row in enumerate(rows)}


def _styles(benchmark: Benchmark) -> dict[str, tuple[str, str]]:
    """Colour and mark of every competitor; the baselines are the line at 1."""
    timed = dict.fromkeys(entry.name for case in benchmark.cases for entry in case.entries if entry.ratios)
    others = [name for name in timed if name not in (COPY, FRESH_COPY, PLAIN)]
    styles = {name: STYLES[index % len(STYLES)] for index, name in enumerate(others)}
    return styles | {FRESH_COPY: FRESH}


def _panel(axis: Any, cases: list[Case], places: dict[Row, float], styles: dict[str, tuple[str, str]]) -> None:
    """Medians as marks, the middle half of the rounds as a line behind them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for case in cases:
        y = places[case.workload.name, case.shape]
        for entry in case.entries:
            spread = quantiles(entry.ratios)
            if spread is None or entry.name not in styles:
                continue
            color, mark = styles[entry.name]
            axis.plot([spread["p25"], spread["p75"]], [y, y], color=color, linewidth=2.5, alpha=0.35, zorder=2)
            edge = color if mark == "|" else "white"
            axis.plot(spread["median"], y, mark, color=color, label=entry.name, zorder=3, mec=edge, mew=0.6, ms=6)
    axis.axvline(1, color="#333333", linewidth=0.8, zorder=1)
    if cases and cases[0].workload.baseline == COPY:
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < FINE * low else (1,)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:  # matrix products are of one magnitude, however they are arranged
        axis.set_xlim(left=0)
    axis.set_yticks(list(places.values()), _labels(places))
    axis.set_ylim(max(places.values()) + 0.5, -0.5)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.grid(axis="x", color="#eeeeee", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, which="both")
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _labels(places: dict[Row, float]) -> list[str]:
    """The shape, and before an operator's first one its name."""
    labels, last = [], None
    for name, shape in places:
        sizes = "×".join(map(str, shape))
        labels.append(sizes if name == last else f"{name}   {sizes}")
        last = name
    return labels
