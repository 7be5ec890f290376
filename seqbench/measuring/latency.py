"""Inference latency against sequence length.

Shapes: B batch, T time, V items plus padding.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqbench import columns, timing
from seqbench.device import Clock
from seqbench.errors import out_of_memory
from seqbench.files import replacing
from seqbench.measuring.grid import MODES, LatencyGrid
from seqbench.measuring.quiet import Watch
from seqbench.models.base import IncrementalModel, Model, SequenceModel
from seqbench.models.times import given, synthetic_times
from seqbench.results.records import Conditions, LatencyPoint, SkippedPoint

POSITIONS = 1 << 18  # largest batch × length that is tried: beyond it memory, not the model, is what is tested
TOP = 10

WARMUP_CALLS = 2
MINIMUM_SAMPLES = 3
MAXIMUM_SAMPLES = 100
SECONDS_PER_CALL = 4.0  # a point whose calls, or whose state, would take longer is skipped, and says so
SPREAD = 0.3  # of the median: samples whose quartiles lie further apart are unsteady


def summarise(mode: str, batch: int, length: int, samples: list[float]) -> LatencyPoint:
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
        self, mode: str, batch: int, length: int, samples: list[float], conditions: Conditions | None = None
    ) -> LatencyPoint:
        """Keep a measured point: quantiles, None where there are too few samples, and the samples they are made of."""
        point = summarise(mode, batch, length, samples)
        if conditions is not None:
            point["conditions"] = conditions
            if mode in ("whole", "step") and (joules := conditions.get("joules")) is not None:
                point["joules_per_1000"] = joules / (len(samples) * batch) * 1000
        self.points.append(point)
        self.samples[f"latency/{mode}/{batch}/{length}"] = samples
        return point

    def skip(self, mode: str, batch: int, length: int, reason: str) -> None:
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

    Mode `whole` encodes the whole history of the given length anew; `encode` leaves out the scores; `step` appends the
    last item of such a history to the state of an incremental model; `prefill` makes that state of the history.

    Args:
        build: makes a model that can take histories of the given length; weights do not matter for time.
        grid: lengths, batches and modes, by default those of `LatencyGrid`.
    """
    grid = grid or LatencyGrid()
    result = Latency()
    all_points = Watch(device)
    generator = torch.Generator().manual_seed(0)
    for batch in grid.batches:
        medians: list[float] = []  # of the first mode, by length
        exhausted: str | None = None
        modes = list(grid.modes[:1])
        for length in grid.lengths:
            if reason := exhausted or _too_much(batch, length, medians):
                for mode in modes:
                    result.skip(mode, batch, length, reason)
                continue
            waiting = list(modes)
            try:
                model = build(length).to(device).eval()
                modes = [mode for mode in MODES if mode in grid.modes and mode in modes_of(model)]
                waiting = list(modes)
                while waiting:
                    mode = waiting[0]
                    items = torch.randint(1, model.items + 1, (batch, length), generator=generator).to(device)
                    timed = CALLS[mode](model, items)
                    _warm_up(timed, device, grid.seconds, clock)
                    watch = Watch(device)
                    samples = _samples(timed, device, grid.seconds, clock)
                    added = result.add(mode, batch, length, samples, watch.conditions())
                    if mode in STATEFUL:
                        added["state_bytes"] = state_bytes(model, items)
                    if mode == modes[0]:
                        medians.append(statistics.median(samples))
                    waiting.pop(0)
                del model  # before the next one is built
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                exhausted = f"out of memory at length {length:,}"
                for mode in waiting:
                    result.skip(mode, batch, length, exhausted)
    _judge(result.points, all_points.conditions())
    return result


def _judge(points: list[LatencyPoint], together: Conditions) -> None:
    """Judge points that were too short to tell what went on beside them by all points together."""
    for point in points:
        found = point.get("conditions", {})
        if "busy_cores" not in found and "busy_cores" in together:
            found["busy_cores"] = together["busy_cores"]
            found["disturbances"] = together["disturbances"]


def modes_of(model: Model) -> list[str]:
    """Return the modes that a model has."""
    steps = isinstance(model, IncrementalModel) and model.config.incremental
    neural = isinstance(model, SequenceModel)
    return [mode for mode in MODES if mode == "whole" or (steps if mode in STATEFUL else neural)]


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
    return sum(each.nbytes for each in model.prefill(items, None, synthetic_times(model, items))) // len(items)


def _inputs(model: Model, items: Tensor) -> tuple[Any, ...]:
    """Return what a model encodes: items (B, T), their number (B,), and times if it uses them."""
    lengths = torch.full((len(items),), items.shape[1], device=items.device)
    return items, lengths, *given(synthetic_times(model, items))


def _encoding(model: Model, items: Tensor) -> Callable[[], None]:
    """From histories (B, T) to the best items."""
    inputs = _inputs(model, items)

    def encode() -> None:
        torch.topk(model.score(*inputs), min(TOP, model.items))

    return encode


def _encoding_only(model: Model, items: Tensor) -> Callable[[], None]:
    """From histories (B, T) to the states that items are scored with."""
    assert isinstance(model, SequenceModel)
    inputs = _inputs(model, items)

    def encode() -> None:
        model.last_states(*inputs)

    return encode


def _appending(model: Model, items: Tensor) -> Callable[[], None]:
    """From the last item of histories (B, T), and the state of the items before it, to the best items."""
    assert isinstance(model, IncrementalModel)
    times, last = synthetic_times(model, items), items[:, -1]
    before = times and times.part(slice(None), slice(-1))
    with torch.inference_mode():
        state = model.prefill(items[:, :-1], None, before)
    following = given(times and times.part(slice(None), -1))

    def append() -> None:
        states, _ = model.step(last, state, *following)
        torch.topk(model.score_states(states), min(TOP, model.items))

    return append


def _filling(model: Model, items: Tensor) -> Callable[[], None]:
    """From histories (B, T) to the state that items can be appended to."""
    assert isinstance(model, IncrementalModel)

    times = synthetic_times(model, items)

    def fill() -> None:
        model.prefill(items, None, times)

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


def _warm_up(call: Callable[[], Any], device: torch.device, seconds: float, clock: Clock) -> None:
    for _ in range(WARMUP_CALLS):
        if timing.sample(call, device, clock=clock)[0] > seconds:
            break


def _samples(call: Callable[[], Any], device: torch.device, seconds: float, clock: Clock) -> list[float]:
    """Time a call for about so many seconds, MINIMUM_SAMPLES to MAXIMUM_SAMPLES times."""
    samples: list[float] = []
    while len(samples) < MAXIMUM_SAMPLES and (len(samples) < MINIMUM_SAMPLES or sum(samples) < seconds):
        samples += timing.sample(call, device, clock=clock)
    return samples
