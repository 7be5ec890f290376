"""The figures of a section as data: what is drawn, and not how. `svg.py` draws them on pages, `plots.py` in papers."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from seqbench.evaluation.metrics import parse
from seqbench.evaluation.statistics import summarise
from seqbench.reporting.costs import Points, by_hardware, disturbances
from seqbench.reporting.document import MODES, Section
from seqbench.reporting.names import display_name
from seqbench.reporting.variants import Variant
from seqbench.results import Record
from seqbench.show.numbers import number

Point = tuple[float, float]

CURVES = 12  # models with a training curve each; more cannot be told apart


@dataclass(frozen=True)
class Axis:
    """What is along one side of a figure."""

    label: str
    log: bool = False
    whole: bool = False  # whole numbers only


@dataclass(frozen=True)
class Series:
    """Points of one model, in the order in which they are joined."""

    label: str
    points: list[Point]
    style: int  # which colour and marker: the same for a model in all figures of a section
    dashed: bool = False
    noisy: bool = False  # measured on a machine that was not quiet


@dataclass(frozen=True)
class Figure:
    """One figure. What is larger is further right and up."""

    name: str  # for files: "latency-batch-1"
    title: str
    x: Axis
    y: Axis
    series: list[Series]
    joined: bool = True  # lines through the points; else points only
    front: list[Point] = field(default_factory=list)  # the points that no other beats in both, from left to right
    note: str = ""


def figures(section: Section, metric: str) -> list[Figure]:
    """Return the figures of a section, those without data left out.

    Args:
        metric: the accuracy that costs are set against, such as "ndcg@10".
    """
    styles = {(each.model, each.configuration): index for index, each in enumerate(section.variants)}
    found: list[Figure] = []
    for hardware, variants in by_hardware(section.variants):
        place = f" on {hardware}"
        found += [_trade_off(variants, styles, metric, place, *cost) for cost in _costs(section, variants)]
        found += _latencies(variants, styles, place)
        found.append(_states(variants, styles))
    found.append(_curves(section.variants, styles, section.protocol.selection))
    shown = [figure for figure in found if any(series.points for series in figure.series)]
    return [_named(figure, [each.name for each in shown[:at]].count(figure.name)) for at, figure in enumerate(shown)]


def pareto(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other is at most as far right and at least as high as, from left to right."""
    front: list[Point] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def label(variant: Variant) -> str:
    """Return the name of a variant as in the rows of tables."""
    name = display_name(variant.model)
    return f"{name} ({variant.configuration})" if variant.configuration else name


Styles = dict[tuple[str, str], int]
Cost = tuple[str, str, str, dict[int, float], set[int]]  # name, words, axis, variant → value, noisy variants


def _costs(section: Section, variants: Sequence[Variant]) -> Iterator[Cost]:
    """Yield the costs that accuracy is set against: time to train, and latency of one history of the usual length."""
    fits = {at: _mean(record.cost.get("fit_seconds") for record in each.finished) for at, each in enumerate(variants)}
    busy = {at for at, each in enumerate(variants) if disturbances(each.finished, "fit_conditions")}
    yield "training", "training time", "training time in s", _known(fits), busy
    points = [Points(variant.finished) for variant in variants]
    lengths = sorted({length for each in points for mode, batch, length in each if mode == "whole" and length})
    if not lengths:
        return
    length = next((each for each in lengths if each >= section.protocol.max_len), lengths[-1])
    batch = min(batch for each in points for mode, batch, _ in each if mode == "whole")
    entries = {at: [entry for _, entry in each.measured("whole", batch, length)] for at, each in enumerate(points)}
    times = {at: _mean(entry["p50_ms"] for entry in each) for at, each in entries.items()}
    busy = {at for at, each in entries.items() if any(_noisy(entry) for entry in each)}
    words = f"latency at length {length:,}"
    yield "latency", words, f"p50 in ms at length {length:,}, batch {batch}", _known(times), busy


def _trade_off(
    variants: Sequence[Variant],
    styles: Styles,
    metric: str,
    place: str,
    name: str,
    words: str,
    axis: str,
    costs: dict[int, float],
    noisy: set[int],
) -> Figure:
    measure = parse(metric)
    series: list[Series] = []
    for at, variant in enumerate(variants):
        accuracy = _mean(run.test_value(measure) for run in variant.runs if run.record.finished)
        if accuracy is not None and costs.get(at, 0) > 0:
            style = styles[variant.model, variant.configuration]
            series.append(Series(label(variant), [(costs[at], accuracy)], style, noisy=at in noisy))
    better = 1 if measure.metric.direction == "up" else -1
    counting = {styles[each.model, each.configuration] for each in variants if not each.trained}
    quiet = [each.points[0] for each in series if not each.noisy and each.style not in counting]
    front = [(x, better * y) for x, y in pareto((x, better * y) for x, y in quiet)]
    return Figure(
        name=f"accuracy-{name}",
        title=f"{measure.title} against {words}{place}",
        x=Axis(axis, log=True),
        y=Axis(measure.title),
        series=series,
        joined=False,
        front=front if len(front) > 1 else [],
        note="Line: trained models that none beats in both. Hollow: measured on a busy machine, so not on the line.",
    )


def _latencies(variants: Sequence[Variant], styles: Styles, place: str) -> Iterator[Figure]:
    points = [(variant, Points(variant.finished)) for variant in variants]
    lengths = sorted({length for _, each in points for _, _, length in each if length})
    for batch in sorted({batch for _, each in points for _, batch, _ in each}):
        series = []
        for mode in MODES:
            for variant, each in points:
                measured = {length: [entry for _, entry in each.measured(mode, batch, length)] for length in lengths}
                means = {length: _mean(entry["p50_ms"] for entry in found) for length, found in measured.items()}
                joined = [(float(length), mean) for length, mean in means.items() if mean]
                if joined:
                    noisy = any(_noisy(entry) for found in measured.values() for entry in found)
                    name = label(variant) + (", one step" if mode == "step" else "")
                    style = styles[variant.model, variant.configuration]
                    series.append(Series(name, joined, style, dashed=mode == "step", noisy=noisy))
        yield Figure(
            name=f"latency-batch-{batch}",
            title=f"Latency against length, batch {batch}{place}",
            x=Axis("length of the history", log=True),
            y=Axis("p50 in ms", log=True),
            series=series,
            note="Solid: the whole history is encoded. Dashed: one item is appended to a state.",
        )


def _states(variants: Sequence[Variant], styles: Styles) -> Figure:
    series = []
    for variant in variants:
        points = Points(variant.finished)
        lengths = sorted({length for _, _, length in points if length})
        joined = []
        for length in lengths:
            entries = [entry for _, entry in points.measured("step", 1, length)]
            size = _mean(entry.get("state_bytes") for entry in entries)
            if size:
                joined.append((float(length), size / 1024))
        series.append(Series(label(variant), joined, styles[variant.model, variant.configuration]))
    return Figure(
        name="memory",
        title="Memory of one user's state against length",
        x=Axis("length of the history", log=True),
        y=Axis("KiB", log=True),
        series=[each for each in series if each.points],
        note="What an incremental model keeps of a user between two requests.",
    )


def _curves(variants: Sequence[Variant], styles: Styles, selection: str) -> Figure:
    series = []
    for variant in [each for each in variants if each.trained][:CURVES]:
        by_epoch: dict[int, list[float]] = {}
        for record in variant.finished:
            for epoch, value in _validations(record):
                by_epoch.setdefault(epoch, []).append(value)
        joined = [(float(epoch), sum(values) / len(values)) for epoch, values in sorted(by_epoch.items())]
        series.append(Series(label(variant), joined, styles[variant.model, variant.configuration]))
    title = parse(selection).title
    return Figure(
        name="training",
        title="Training curves",
        x=Axis("epoch", whole=True),
        y=Axis(f"{title} of validation"),
        series=series,
        note="Mean over the seeds that were still training.",
    )


def _validations(record: Record) -> Iterator[tuple[int, float]]:
    for entry in record.training["history"] if record.training else ():
        if (value := number(entry["validation"])) is not None:
            yield entry["epoch"], value


def _noisy(entry: object) -> bool:
    found = entry if isinstance(entry, dict) else {}
    return bool(found.get("unsteady") or found.get("conditions", {}).get("disturbances"))


def _mean(values: Iterable[object]) -> float | None:
    return summarise([value for each in values if (value := number(each)) is not None]).mean


def _known(values: dict[int, float | None]) -> dict[int, float]:
    return {at: value for at, value in values.items() if value is not None}


def _named(figure: Figure, before: int) -> Figure:
    """Give a figure a name that no other of its section has."""
    name = re.sub(r"[^a-z0-9]+", "-", figure.name.lower()).strip("-")
    return Figure(**{**vars(figure), "name": f"{name}-{before + 1}" if before else name})
