"""Figures as SVG inside a page: colours are those of the page's style sheet, so that light and dark are one drawing."""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from seqbench.reporting.figures import Axis, Figure, Point, Series

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 42
STYLES = 8  # colours and markers; the style sheet has a class for each colour
SIZE = 4.5  # of markers

# Outlines of the markers around (0, 0), for the radius 1; no outline: a circle.
MARKERS: tuple[Sequence[Point], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),  # square
    ((0, -1.1), (1, 0.8), (-1, 0.8)),  # triangle
    ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),  # diamond
    ((0, 1.1), (1, -0.8), (-1, -0.8)),  # triangle upside down
    ((-1.3, -0.4), (1.3, -0.4), (1.3, 0.4), (-1.3, 0.4)),  # bar
    ((0, -1.3), (0.35, -0.35), (1.3, 0), (0.35, 0.35), (0, 1.3), (-0.35, 0.35), (-1.3, 0), (-0.35, -0.35)),  # star
    ((-1.1, 0), (-0.5, -1), (0.5, -1), (1.1, 0), (0.5, 1), (-0.5, 1)),  # hexagon
)


def draw(figure: Figure) -> str:
    """Return a figure as an svg element; whatever its names hold is escaped."""
    points = [point for series in figure.series for point in series.points]
    across = _Scale(figure.x, [x for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Scale(figure.y, [y for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(figure.title)}">']
    for value in across.ticks:
        x = across(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{across.words(value)}</text>')
    for value in up.ticks:
        y = up(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{up.words(value)}</text>')
    middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(figure.x.label)}</text>')
    turned = f'transform="translate(13 {height}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(figure.y.label)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    if figure.front:
        parts.append(f'<path class="front" d="{_path([(across(x), up(y)) for x, y in figure.front])}"/>')
    for series in figure.series:
        parts += _series(series, figure.joined, across, up)
    return "".join([*parts, "</svg>"])


def key(series: Series, joined: bool) -> str:
    """Return the line, if its points are joined, and the marker of a series for a legend: a small svg element."""
    line = f'<path class="line{" dashed" if series.dashed else ""}" d="M1 7H27"/>' if joined else ""
    opening = f'<svg class="key {_colour(series)}" viewBox="0 0 28 14" aria-hidden="true">'
    return f"{opening}{line}{_marker(series, 14, 7)}</svg>"


def _series(
    series: Series, joined: bool, across: Callable[[float], float], up: Callable[[float], float]
) -> Iterator[str]:
    yield f'<g class="{_colour(series)}">'
    placed = [(across(x), up(y)) for x, y in series.points]
    if joined and len(placed) > 1:
        yield f'<path class="line{" dashed" if series.dashed else ""}" d="{_path(placed)}"/>'
    if joined and len(placed) > 20:  # dense enough without
        placed = []
    for (x, y), values in zip(placed, series.points, strict=False):
        said = f"{series.label}: {values[0]:,.4g}, {values[1]:,.4g}{' (noisy)' if series.noisy else ''}"
        yield _marker(series, x, y, f"<title>{escape(said)}</title>")
    yield "</g>"


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _marker(series: Series, x: float, y: float, inside: str = "") -> str:
    hollow = " hollow" if series.noisy else ""
    corners = MARKERS[_marker_number(series)]
    if not corners:
        return f'<circle class="mark{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="{SIZE}">{inside}</circle>'
    path = _path([(x + SIZE * dx, y + SIZE * dy) for dx, dy in corners])
    return f'<path class="mark{hollow}" d="{path}Z">{inside}</path>'


def _colour(series: Series) -> str:
    return f"s{series.style % STYLES}"


def _marker_number(series: Series) -> int:
    """Return another marker for a colour that is used again."""
    return (series.style + series.style // STYLES) % STYLES


class _Scale:
    """Values of an axis to places on the page."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, stop: float) -> None:
        self.log, self.whole = axis.log, axis.whole
        low, high = (self._inner(value) for value in (min(values), max(values)))
        room = 0.06 * (high - low) or (0.3 if self.log else 0.1 * abs(high) or 1.0)
        self.low, self.high = low - room, high + room
        self.start, self.stop = start, stop
        self.ticks = list(self._log_ticks() if self.log else self._ticks())

    def __call__(self, value: float) -> float:
        share = (self._inner(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def words(self, value: float) -> str:
        return f"{value:,.6g}"

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _ticks(self) -> Iterator[float]:
        """Yield four to eight round numbers."""
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
        step = max(step, 1.0) if self.whole else step
        for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield round(number * step, 12)

    def _log_ticks(self) -> Iterator[float]:
        """Yield powers of ten, with 2 and 5 of them where few fit."""
        between = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for factor in between:
                value = factor * 10.0**power
                if self.low <= math.log10(value) <= self.high:
                    yield value
