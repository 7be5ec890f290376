"""Latency is measured once for all seeds, unless something that it depends on differs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from seqbench.measuring.grid import LatencyGrid
from seqbench.measuring.reuse import MACHINE, measured_before, plain
from seqbench.protocol import Protocol
from seqbench.results import Definition, Record, write_record
from seqbench.results.records import Cost, Environment

GRID = LatencyGrid((8, 16), (1,), 0.5)
HERE: Environment = {"cpu": "A", "cores": 2, "threads": 2, "device_name": "A", "torch": "2.9", "git_commit": "0123"}


def definition(seed: int = 0, **changes: Any) -> Definition:
    made = Definition("data", "f" * 8, Protocol(), "lrurec", {"layers": 2}, {}, seed, "cpu", "native")
    return dataclasses.replace(made, **changes)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    point = {"mode": "whole", "batch": 1, "length": 8, "p50_ms": 1.0, "p95_ms": None, "p99_ms": None, "repeats": 3}
    cost: Any = Cost(latency=[point], latency_skipped=[], latency_grid=plain(GRID))  # type: ignore[list-item]
    write_record(tmp_path, Record(definition(), "finished", "2026-01-01T00:00:00+00:00", 1.0, HERE, cost=cost))
    return tmp_path


def test_another_seed_has_the_same_latency(results: Path) -> None:
    found = measured_before(results, definition(seed=1), HERE, GRID)
    assert found is not None
    assert found.definition == definition()


@pytest.mark.parametrize("change", [{"config": {"layers": 1}}, {"backend": "torch"}, {"fingerprint": "0" * 8}])
def test_another_definition_is_measured(results: Path, change: dict[str, Any]) -> None:
    assert measured_before(results, definition(seed=1, **change), HERE, GRID) is None


@pytest.mark.parametrize("name", MACHINE)
def test_another_machine_or_version_is_measured(results: Path, name: str) -> None:
    elsewhere: Any = {**HERE, name: "another"}
    assert measured_before(results, definition(seed=1), elsewhere, GRID) is None


def test_other_points_are_measured(results: Path) -> None:
    for grid in (LatencyGrid((8,), (1,), 0.5), LatencyGrid((8, 16), (1,), 1.0)):
        assert measured_before(results, definition(seed=1), HERE, grid) is None


def test_code_without_a_commit_is_measured(results: Path) -> None:
    changed: Environment = {**HERE, "git_commit": "0123+"}
    assert measured_before(results, definition(seed=1), changed, GRID) is None


def test_what_was_measured_on_a_busy_machine_is_measured_again(results: Path) -> None:
    record = measured_before(results, definition(seed=1), HERE, GRID)
    assert record is not None
    record.cost["latency"][0]["conditions"] = {"disturbances": ["other processes kept 2.0 of 2 cores busy"]}
    write_record(results, record)
    assert measured_before(results, definition(seed=1), HERE, GRID) is None
