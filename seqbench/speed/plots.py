"""A dot plot of the ratios: one row for each operator and shape, one mark for each competitor, at a paper's width."""

from pathlib import Path
from typing import Any

from seqbench.show.plotting import STYLES, WIDE, figure, log_ticks, save
from seqbench.speed.benchmark import COPY, FRESH_COPY, PLAIN, Benchmark, Case
from seqbench.speed.summary import machine, quantiles
from seqbench.speed.workloads import PASSES

ROW = 0.23
GAP = 0.4  # rows between operators
PANEL = 0.55  # inches of every panel's axis
MARGIN = 0.75  # inches of the legend and the titles
FRESH = ("#888888", "|")
RATIO = {COPY: "time ÷ copy of as many bytes", PLAIN: "time ÷ plain form"}
Row = tuple[str, tuple[int, ...]]  # operator, shape


def draw(benchmark: Benchmark, path: Path) -> None:
    """Write the plot to a file whose name `plotting.check` accepts.

    Raises:
        StorageError: it cannot be written.
    """
    panels = {
        baseline: cases
        for baseline in RATIO
        if (cases := [case for case in benchmark.cases if case.workload.baseline == baseline])
    }
    places = {baseline: _places(cases) for baseline, cases in panels.items()}
    heights = [max(rows.values()) + 1 for rows in places.values()]
    styles = _styles(benchmark)
    with figure(WIDE, MARGIN + sum(PANEL + ROW * rows for rows in heights)) as drawn:
        grid: Any = drawn.subplots(
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
        legend = drawn.legend([handles[name] for name in names], names, loc="outside upper center", ncols=4)
        legend.set_title(machine(benchmark.request))
        save(drawn, path)


def _places(cases: list[Case]) -> dict[Row, float]:
    """Place each operator and shape on the axis, from 0 downwards; operators stand apart."""
    rows = list(dict.fromkeys((case.workload.name, case.shape) for case in cases))
    operators = list(dict.fromkeys(name for name, _ in rows))
    return {row: index + GAP * operators.index(row[0]) for index, row in enumerate(rows)}


def _styles(benchmark: Benchmark) -> dict[str, tuple[str, str]]:
    """Choose colour and mark of every competitor; the baselines are the line at 1."""
    timed = dict.fromkeys(entry.name for case in benchmark.cases for entry in case.entries if entry.ratios)
    others = [name for name in timed if name not in (COPY, FRESH_COPY, PLAIN)]
    styles = {name: STYLES[index % len(STYLES)] for index, name in enumerate(others)}
    return styles | {FRESH_COPY: FRESH}


def _panel(axis: Any, cases: list[Case], places: dict[Row, float], styles: dict[str, tuple[str, str]]) -> None:
    """Draw medians as marks, the middle half of the rounds as a line behind them."""
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
        log_ticks(axis.xaxis, low, high)
    else:  # matrix products are of one magnitude, however they are arranged
        axis.set_xlim(left=0)
    axis.set_yticks(list(places.values()), _labels(places))
    axis.set_ylim(max(places.values()) + 0.5, -0.5)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.grid(axis="x", color="#eeeeee", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, which="both")
    axis.spines["left"].set_visible(False)


def _labels(places: dict[Row, float]) -> list[str]:
    """Return each row's shape, and before an operator's first one its name."""
    labels, last = [], None
    for name, shape in places:
        sizes = "×".join(map(str, shape))
        labels.append(sizes if name == last else f"{name}   {sizes}")
        last = name
    return labels
