"""Inference latency against sequence length.

Shapes: B batch, T time, V items plus padding.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqbench import columns, timing
from seqbench.device import Clock
from seqbench.errors import out_of_memory
from seqbench.files import replacing
from seqbench.measuring.grid import LatencyGrid
from seqbench.measuring.quiet import Watch
from seqbench.models.base import IncrementalModel, Model, SequenceModel
from seqbench.results.records import Conditions, LatencyPoint, SkippedPoint

POSITIONS = 1 << 18  # largest batch × length that is tried: beyond it memory, not the model, is what is tested
TOP = 10

WARMUP_CALLS = 2
MINIMUM_SAMPLES = 3
MAXIMUM_SAMPLES = 100
SECONDS_PER_CALL = 4.0  # a point whose calls, or whose state, would take longer is skipped, and says so
SPREAD = 0.3  # of the median: samples whose quartiles lie further apart are unsteady
STEPS_BEFORE = 8  # items that an incremental model has seen before its steps are timed


def summarise(mode: str, batch: int, length: int | None, samples: list[float]) -> LatencyPoint:
    """Return a point from its samples in seconds: quantiles, None where there are too few, and how steady they are."""
    p95, p99 = (
        float(np.percentile(samples, percent)) * 1000 if len(samples) >= needed else None
        for percent, needed in ((95, 20), (99, 100))  # one sample in the tail
    )
    p25, p50, p75 = np.percentile(samples, (25, 50, 75))
    return LatencyPoint(
        mode=mode,
        batch=batch,
        length=length,
        p50_ms=float(p50) * 1000,
        p95_ms=p95,
        p99_ms=p99,
        repeats=len(samples),
        unsteady=bool(p75 - p25 > SPREAD * p50),
    )


@dataclass
class Latency:
    """Measured points (the record's `latency`), skipped points, and all raw samples in seconds."""

    points: list[LatencyPoint] = field(default_factory=list)
    skipped: list[SkippedPoint] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(
        self, mode: str, batch: int, length: int | None, samples: list[float], conditions: Conditions | None = None
    ) -> LatencyPoint:
        """Keep a measured point: quantiles, None where there are too few samples, and the samples they are made of."""
        point = summarise(mode, batch, length, samples)
        if conditions is not None:
            point["conditions"] = conditions
        self.points.append(point)
        self.samples[f"latency/{mode}/{batch}/{length}"] = samples
        return point

    def skip(self, mode: str, batch: int, length: int | None, reason: str) -> None:
        """Keep the reason why a point has no figure."""
        self.skipped.append({"mode": mode, "batch": batch, "length": length, "reason": reason})

    def write_samples(self, path: Path) -> None:
        """Store the raw samples as Parquet: series, value."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        series = [name for name, values in self.samples.items() for _ in values]
        values = [value for values in self.samples.values() for value in values]
        table = pa.table({columns.SERIES: pa.array(series, pa.string()), columns.VALUE: pa.array(values, pa.float64())})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")


@torch.inference_mode()
def latency(
    build: Callable[[int], Model],
    device: torch.device,
    *,
    grid: LatencyGrid | None = None,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Time the way from item ids on the device to the best TOP items of the whole catalogue.

    Mode `whole` encodes the whole history of the given length anew; mode `step` appends the last item of such a history
    to the state of an incremental model. If that state does not grow, neither its size nor its time depends on the
    length, and there is one point for all lengths (length None).

    Args:
        build: makes a model that can take histories of the given length; weights do not matter for time.
        grid: lengths and batches, by default those of `LatencyGrid`.
    """
    grid = grid or LatencyGrid()
    lengths = grid.lengths
    result = Latency()
    all_points = Watch(device)
    generator = torch.Generator().manual_seed(0)
    for batch in grid.batches:
        medians: list[float] = []
        exhausted: str | None = None
        modes = ["whole"]  # that every length has a point in
        for length in lengths:
            if reason := exhausted or _too_much(batch, length, medians):
                for mode in modes:
                    result.skip(mode, batch, length, reason)
                continue
            waiting = [_Point(mode, length, length) for mode in modes]
            try:
                model = build(length).to(device).eval()
                waiting = _points(model, length, first=length == lengths[0])
                modes = [point.mode for point in waiting if point.length is not None]
                while waiting:
                    point = waiting[0]
                    items = torch.randint(1, model.items + 1, (batch, point.items), generator=generator).to(device)
                    timed = CALLS[point.mode](model, items)
                    watch = Watch(device)
                    samples = _samples(timed, device, grid.seconds, clock)
                    added = result.add(point.mode, batch, point.length, samples, watch.conditions())
                    if point.mode in STATEFUL:
                        added["state_bytes"] = state_bytes(model, items)
                    if point.mode == "whole":
                        medians.append(statistics.median(samples))
                    waiting.pop(0)
                del model  # before the next one is built
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                exhausted = f"out of memory at length {length:,}"
                for point in waiting:
                    result.skip(point.mode, batch, point.length, exhausted)
    _judge(result.points, all_points.conditions())
    return result


def _judge(points: list[LatencyPoint], together: Conditions) -> None:
    """Judge points that were too short to tell what went on beside them by all points together."""
    for point in points:
        found = point.get("conditions", {})
        if "busy_cores" not in found and "busy_cores" in together:
            found["busy_cores"] = together["busy_cores"]
            found["disturbances"] = together["disturbances"]


class _Point(NamedTuple):
    mode: str
    length: int | None  # as recorded; None: the same at every length
    items: int  # of the histories that are timed


def _points(model: Model, length: int, *, first: bool) -> list[_Point]:
    """What is timed of a model that was built for a length, which may be the first of all lengths."""
    points = [_Point("whole", length, length)]
    if "step" in modes_of(model):
        assert isinstance(model, IncrementalModel)
        if model.state_grows:
            points.append(_Point("step", length, length))
        elif first:
            points.append(_Point("step", None, min(STEPS_BEFORE + 1, model.max_len)))
    return points


def modes_of(model: Model) -> list[str]:
    """Return the names of CALLS that a model has."""
    steps = isinstance(model, IncrementalModel) and model.config.causal
    neural = isinstance(model, SequenceModel)
    return [mode for mode in CALLS if mode == "whole" or (steps if mode in STATEFUL else neural)]


def call(mode: str, model: Model, items: Tensor) -> Callable[[], None]:
    """Return what is timed in a mode of `modes_of` on histories (B, T)."""
    prepared = CALLS[mode](model, items)

    @torch.inference_mode()
    def timed() -> None:
        prepared()

    return timed


@torch.inference_mode()
def state_bytes(model: Model, items: Tensor) -> int:
    """Return the bytes of an incremental model's state, for each of the histories (B, T) that it stands for."""
    assert isinstance(model, IncrementalModel)
    return sum(each.nbytes for each in model.prefill(items)) // len(items)


def _lengths(items: Tensor) -> Tensor:
    return torch.full((len(items),), items.shape[1], device=items.device)


def _encoding(model: Model, items: Tensor) -> Callable[[], None]:
    """From histories (B, T) to the best items."""
    lengths = _lengths(items)

    def encode() -> None:
        torch.topk(model.score(items, lengths), min(TOP, model.items))

    return encode


def _encoding_only(model: Model, items: Tensor) -> Callable[[], None]:
    """From histories (B, T) to the states that items are scored with."""
    assert isinstance(model, SequenceModel)
    lengths = _lengths(items)

    def encode() -> None:
        model.last_states(items, lengths)

    return encode


def _appending(model: Model, items: Tensor) -> Callable[[], None]:
    """From the last item of histories (B, T), and the state of the items before it, to the best items."""
    assert isinstance(model, IncrementalModel)
    with torch.inference_mode():
        state = model.prefill(items[:, :-1])
    last = items[:, -1]

    def append() -> None:
        states, _ = model.step(last, state)
        torch.topk(model.score_states(states), min(TOP, model.items))

    return append


def _filling(model: Model, items: Tensor) -> Callable[[], None]:
    """From histories (B, T) to the state that items can be appended to."""
    assert isinstance(model, IncrementalModel)

    def fill() -> None:
        model.prefill(items)

    return fill


CALLS = {"whole": _encoding, "encode": _encoding_only, "step": _appending, "prefill": _filling}
STATEFUL = ("step", "prefill")


def _too_much(batch: int, length: int, medians: list[float]) -> str | None:
    """Why a point is not measured, judging by the ones before it; None if it is."""
    if batch * length > POSITIONS:
        return f"more than {POSITIONS:,} positions at once"
    if len(medians) >= 2:
        growth = medians[-1] / medians[-2]
        if medians[-1] * growth > SECONDS_PER_CALL:
            return f"encoding the history would take more than {SECONDS_PER_CALL:.0f} s"
    return None


def _samples(call: Callable[[], Any], device: torch.device, seconds: float, clock: Clock) -> list[float]:
    """Time a call for about so many seconds, MINIMUM_SAMPLES to MAXIMUM_SAMPLES times, after a warm-up."""
    for _ in range(WARMUP_CALLS):
        if timing.sample(call, device, clock=clock)[0] > seconds:
            break
    samples: list[float] = []
    while len(samples) < MAXIMUM_SAMPLES and (len(samples) < MINIMUM_SAMPLES or sum(samples) < seconds):
        samples += timing.sample(call, device, clock=clock)
    return samples
