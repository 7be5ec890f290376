"""The figures of a report for a two-column paper: each as PDF, SVG and PNG, one column wide."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqbench.reporting.document import Report, Section
from seqbench.reporting.figures import Figure, Series, figures
from seqbench.show import plotting
from seqbench.show.text import printable

LEGEND_ROW = 0.14  # inches
LEGEND_CHARACTERS = 56  # of a row
LEGEND_ENTRY = 7  # characters' room that line and gap take
DASHES = ((0, (4, 2)), (0, (1, 1)))  # of what is dashed; and of the front


def draw_all(report: Report, folder: Path) -> list[Path]:
    """Draw every figure of every section to a folder, and return the files.

    Raises:
        UsageError: matplotlib is not installed.
        StorageError: a file cannot be written.
    """
    plotting.require_matplotlib("--plots")
    drawn: list[Path] = []
    names: list[str] = []
    for section in report.sections:
        names.append(_slug(section))
        repeated = names.count(names[-1])
        name = names[-1] if repeated == 1 else f"{names[-1]}-{repeated}"
        for figure in printable(figures(section, report.metrics[0])):
            drawn += _draw(figure, folder, f"{name}-{figure.name}")
    return drawn


def _slug(section: Section) -> str:
    words = f"{section.title} {section.protocol.name}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "report"


def _draw(figure: Figure, folder: Path, name: str) -> Iterator[Path]:
    from matplotlib.ticker import MaxNLocator

    longest = max(len(series.label) for series in figure.series)
    columns = min(3, max(1, LEGEND_CHARACTERS // (longest + LEGEND_ENTRY)))
    rows = -(-len(figure.series) // columns)
    with plotting.figure(plotting.COLUMN, 2.2 + LEGEND_ROW * rows) as drawn:
        axes = drawn.subplots()
        axes.set(xlabel=figure.x.label, ylabel=figure.y.label)
        axes.grid(linewidth=0.4, color="0.85")
        axes.set_axisbelow(True)
        if figure.front:
            axes.plot(*zip(*figure.front, strict=True), color="0.4", linewidth=0.8, linestyle=DASHES[1], zorder=1)
        for series in figure.series:
            axes.plot(*zip(*series.points, strict=True), label=_plain(series.label), **_style(series, figure.joined))
        points = [point for series in figure.series for point in series.points]
        for axis, log, values in (
            (axes.xaxis, figure.x.log, [x for x, _ in points]),
            (axes.yaxis, figure.y.log, [y for _, y in points]),
        ):
            if log:
                (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
                plotting.log_ticks(axis, min(values), max(values))
        if figure.x.whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.legend(loc="outside lower center", ncols=columns, fontsize=6.5, handlelength=2.4)
        for suffix in plotting.SUFFIXES:
            path = folder / f"{name}{suffix}"
            plotting.save(drawn, path)
            yield path


def _style(series: Series, joined: bool) -> dict[str, Any]:
    """Return what tells a series apart, in colour and in grey: marker and filling as well as colour and dashes."""
    count = len(plotting.STYLES)
    colour, _ = plotting.STYLES[series.style % count]
    _, marker = plotting.STYLES[(series.style + series.style // count) % count]  # another when a colour comes again
    line = (DASHES[0] if series.dashed else "-") if joined else ""
    many = joined and len(series.points) > 20
    return {
        "color": colour,
        "marker": marker,
        "markersize": 4,
        "markevery": max(1, len(series.points) // 8) if many else 1,
        "markerfacecolor": "white" if series.noisy else colour,
        "linestyle": line,
        "linewidth": 1.1,
    }


def _plain(label: str) -> str:
    """Return a label that matplotlib prints as it is: no formulas, and no name that hides it from the legend."""
    escaped = label.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
