"""Latency with a clock that the model itself turns, and peak memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from seqbench.data.sequences import Sequences
from seqbench.measuring import latency as latency_module
from seqbench.measuring.grid import MODES, LatencyGrid
from seqbench.measuring.latency import MAXIMUM_SAMPLES, MINIMUM_SAMPLES, POSITIONS, Latency, latency
from seqbench.models.base import CountingModel, IncrementalModel, Model, ModelConfig, SequenceModel
from tests.models.forms import FORMS

CPU = torch.device("cpu")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(CountingModel):
    """Takes `cost(batch, length)` seconds of a clock's time."""

    def __init__(self, clock: Clock, cost: Callable[[int, int], float]) -> None:
        super().__init__(5, 1, ModelConfig())
        self.clock = clock
        self.cost = cost

    def fit(self, sequences: Sequences) -> None:
        raise NotImplementedError

    def score(self, items: Tensor, lengths: Tensor) -> Tensor:
        assert not self.training
        assert items.min() >= 1
        assert items.max() <= self.items
        assert lengths.tolist() == [items.shape[1]] * len(items)
        self.clock.now += self.cost(*items.shape)
        return torch.zeros(len(items), self.items + 1)


class Stepping(IncrementalModel):
    """The same with steps, of one second each."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(5, 1, ModelConfig())
        self.clock = clock
        self.weights = torch.zeros(6, 2)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        self.clock.now += 10.0
        return torch.zeros(*items.shape, 2)

    def item_weights(self) -> Tensor:
        return self.weights

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.zeros(batch),)

    def step(self, items: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.clock.now += 1.0
        return torch.zeros(len(items), 2), (state[0] + 1,)


BOTH = ("whole", "step")


def measured(cost: Callable[[int, int], float], **options: Any) -> Latency:
    clock = Clock()
    return latency(lambda length: Timed(clock, cost), CPU, grid=LatencyGrid(**options), clock=clock)


def points(result: Latency) -> list[tuple[str, int, int | None]]:
    return [(point["mode"], point["batch"], point["length"]) for point in result.points]


def test_quantiles_are_those_of_the_samples() -> None:
    durations = iter([9.0, *np.linspace(0.01, 0.001, MAXIMUM_SAMPLES)])
    result = measured(lambda *_: next(durations), lengths=(8,), batches=(1,))
    (point,) = result.points
    samples = result.samples["latency/whole/1/8"]
    assert point["repeats"] == len(samples)
    assert point["p50_ms"] == pytest.approx(1000 * np.median(samples))
    assert point["p95_ms"] == pytest.approx(1000 * np.percentile(samples, 95))
    assert point["p99_ms"] == pytest.approx(1000 * np.percentile(samples, 99))


@pytest.mark.parametrize(
    ("seconds", "known"),
    [
        (0.3, ["p50"]),
        (0.054, ["p50"]),  # 19 samples
        (0.05, ["p50", "p95"]),  # 20
        (0.0102, ["p50", "p95"]),  # 99
        (0.01, ["p50", "p95", "p99"]),  # 100
    ],
)
def test_a_quantile_needs_a_sample_in_its_tail(seconds: float, known: list[str]) -> None:
    (point,) = measured(lambda *_: seconds, lengths=(8,), batches=(1,)).points
    assert [name for name in ("p50", "p95", "p99") if point[f"{name}_ms"] is not None] == known


def test_the_first_calls_do_not_count() -> None:
    durations = iter([0.5, 0.5, *[0.01] * 200])
    result = measured(lambda *_: next(durations), lengths=(8,), batches=(1,))
    assert set(np.round(result.samples["latency/whole/1/8"], 6)) == {0.01}


@pytest.mark.parametrize(
    ("seconds", "repeats"),
    [(0.001, MAXIMUM_SAMPLES), (0.25, 4), (0.5, MINIMUM_SAMPLES), (3.0, MINIMUM_SAMPLES), (100.0, MINIMUM_SAMPLES)],
)
def test_a_point_takes_about_a_second_but_has_some_samples(seconds: float, repeats: int) -> None:
    result = measured(lambda *_: seconds, lengths=(8,), batches=(1,))
    assert result.points[0]["repeats"] == repeats
    assert result.points[0]["p50_ms"] == pytest.approx(1000 * seconds)


def test_every_length_and_batch_has_a_point_or_a_reason() -> None:
    lengths, batches = LatencyGrid.lengths, LatencyGrid.batches
    result = measured(lambda batch, length: batch * length * 1e-5, lengths=lengths, batches=batches)
    skipped = [(point["mode"], point["batch"], point["length"]) for point in result.skipped]
    expected = [("whole", batch, length) for batch in batches for length in lengths]
    assert sorted(points(result) + skipped) == sorted(expected)


def test_too_many_positions_are_skipped() -> None:
    result = measured(lambda *_: 0.1, lengths=(64, POSITIONS // 32, POSITIONS // 16), batches=(1, 32))
    assert [(entry["batch"], entry["length"]) for entry in result.skipped] == [(32, POSITIONS // 16)]
    assert "positions" in result.skipped[0]["reason"]
    assert len(result.points) == 5


def test_a_call_that_would_take_too_long_is_not_tried() -> None:
    tried = set()

    def quadratic(batch: int, length: int) -> float:
        tried.add(length)
        return 0.1 * (length / 64) ** 2

    result = measured(quadratic, lengths=(64, 128, 256, 512, 1024), batches=(1,))
    assert tried == {64, 128, 256}  # 0.1, 0.4, 1.6 seconds; the next would take 6.4
    assert [(entry["length"], entry["reason"]) for entry in result.skipped] == [
        (512, "encoding the history would take more than 4 s"),
        (1024, "encoding the history would take more than 4 s"),
    ]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")]
)
def test_out_of_memory_is_recorded_and_what_is_longer_is_not_tried(error: Exception) -> None:
    def limited(batch: int, length: int) -> float:
        if batch * length >= 1024:
            raise error
        return 0.1

    result = measured(limited, lengths=(64, 1024, 4096), batches=(1, 32))
    assert points(result) == [("whole", 1, 64)]
    assert [(entry["batch"], entry["length"]) for entry in result.skipped] == [
        *((1, 1024), (1, 4096)),
        *((32, 64), (32, 1024), (32, 4096)),
    ]
    reasons = [entry["reason"] for entry in result.skipped]
    assert reasons == ["out of memory at length 1,024"] * 2 + ["out of memory at length 64"] * 3


def test_another_error_is_not_swallowed() -> None:
    def broken(batch: int, length: int) -> float:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        measured(broken, lengths=(8,), batches=(1,))


def test_only_incremental_models_have_steps() -> None:
    clock = Clock()
    result = latency(lambda length: Stepping(clock), CPU, grid=LatencyGrid((8, 16), (1, 4)), clock=clock)
    assert points(result) == [(mode, batch, length) for batch in (1, 4) for length in (8, 16) for mode in BOTH]
    assert {p["p50_ms"] for p in result.points if p["mode"] == "step"} == {1000.0}
    assert {p["p50_ms"] for p in result.points if p["mode"] == "whole"} == {10000.0}
    assert points(measured(lambda *_: 0.1, lengths=(8,), batches=(1,))) == [("whole", 1, 8)]


class Growing(Stepping):
    """Its steps take a second per item in the state, which cannot have more than 16."""

    state_grows = True

    def step(self, items: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if state[0].sum() > 16:
            raise MemoryError
        self.clock.now += float(state[0][0])
        return torch.zeros(len(items), 2), (state[0] + 1,)


def test_steps_of_a_growing_state_are_timed_at_every_length() -> None:
    clock = Clock()
    result = latency(lambda length: Growing(clock), CPU, grid=LatencyGrid((4, 8), (1,)), clock=clock)
    assert {(p["length"], p["p50_ms"]) for p in result.points if p["mode"] == "step"} == {(4, 3000.0), (8, 7000.0)}


def test_a_growing_state_that_does_not_fit_is_skipped_with_the_reason() -> None:
    clock = Clock()
    result = latency(lambda length: Growing(clock), CPU, grid=LatencyGrid((4, 8, 16), (4,)), clock=clock)
    assert points(result) == [("whole", 4, 4), ("step", 4, 4), ("whole", 4, 8)]
    assert [(entry["mode"], entry["length"]) for entry in result.skipped] == [("step", 8), ("whole", 16), ("step", 16)]
    assert {entry["reason"] for entry in result.skipped} == {"out of memory at length 8"}


def test_the_best_items_are_part_of_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding them takes a second of the clock here, and the rest what the models say."""
    topk = torch.topk

    def slow(scores: Tensor, k: int) -> Any:
        clock.now += 1.0
        assert scores.shape == (2, 6)
        return topk(scores, k)

    clock = Clock()
    monkeypatch.setattr(torch, "topk", slow)
    result = latency(lambda length: Stepping(clock), CPU, grid=LatencyGrid((8,), (2,)), clock=clock)
    assert {point["mode"]: point["p50_ms"] for point in result.points} == {"whole": 11_000, "step": 2_000}


def test_the_model_is_built_for_the_length() -> None:
    asked = []

    def build(length: int) -> Model:
        asked.append(length)
        return Timed(clock, lambda *_: 0.1)

    clock = Clock()
    latency(build, CPU, grid=LatencyGrid((8, 16), (1,)), clock=clock)
    assert asked == [8, 16]


def test_a_model_that_cannot_be_built_for_want_of_memory_is_skipped() -> None:
    def build(length: int) -> Model:
        if length > 8:
            raise torch.OutOfMemoryError("CUDA")
        return Timed(clock, lambda *_: 0.1)

    clock = Clock()
    result = latency(build, CPU, grid=LatencyGrid((8, 16, 32), (1,)), clock=clock)
    assert points(result) == [("whole", 1, 8)]
    assert [entry["length"] for entry in result.skipped] == [16, 32]
    assert {entry["reason"] for entry in result.skipped} == {"out of memory at length 16"}
    nothing = latency(build, CPU, grid=LatencyGrid((16,), (1,)), clock=clock)
    assert (points(nothing), len(nothing.skipped)) == ([], 1)


def test_a_step_that_does_not_fit_is_skipped() -> None:
    class Failing(Stepping):
        def step(self, items: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
            raise MemoryError

    result = latency(lambda length: Failing(clock), CPU, grid=LatencyGrid((8,), (1,)), clock=(clock := Clock()))
    assert points(result) == [("whole", 1, 8)]
    assert [(entry["mode"], entry["length"]) for entry in result.skipped] == [("step", 8)]


@pytest.mark.parametrize("form", FORMS)
def test_every_model_is_measured_in_every_mode_that_it_has(form: str) -> None:
    cls, config = FORMS[form]
    grid = LatencyGrid((4, 32), (1, 3), seconds=0.0, modes=MODES)
    result = latency(lambda length: cls(20, length, config), CPU, grid=grid)
    incremental = issubclass(cls, IncrementalModel) and config.incremental
    modes = ["whole", *(["encode"] if issubclass(cls, SequenceModel) else [])] + ["step", "prefill"] * incremental
    assert points(result) == [(mode, batch, length) for batch in (1, 3) for length in (4, 32) for mode in modes]
    assert all(point["p50_ms"] > 0 for point in result.points)
    sizes = {(point["length"]): point["state_bytes"] for point in result.points if "state_bytes" in point}
    if issubclass(cls, IncrementalModel) and config.incremental:
        assert (sizes[32] > sizes[4]) == cls.state_grows


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="modes must be some of whole, encode, step, prefill, not all"):
        LatencyGrid(modes=("whole", "all"))


def test_raw_samples_are_stored(tmp_path: Path) -> None:
    result = measured(lambda *_: 0.25, lengths=(8, 16), batches=(1,))
    result.write_samples(tmp_path / "samples.parquet")
    table = pq.read_table(tmp_path / "samples.parquet").to_pydict()
    assert table["series"] == ["latency/whole/1/8"] * 4 + ["latency/whole/1/16"] * 4
    assert table["value"] == pytest.approx([0.25] * 8)


def test_points_too_short_to_judge_are_judged_by_all_together() -> None:
    result = measured(lambda *_: 0.25, lengths=(8, 16), batches=(1,))
    long, short = result.points
    long["conditions"] = {"busy_cores": 0.0, "disturbances": []}
    short["conditions"] = {"disturbances": []}
    latency_module._judge(result.points, {"busy_cores": 1.5, "disturbances": ["busy"]})
    assert long["conditions"] == {"busy_cores": 0.0, "disturbances": []}
    assert short["conditions"] == {"busy_cores": 1.5, "disturbances": ["busy"]}
