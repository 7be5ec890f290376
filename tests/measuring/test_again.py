"""`seqbench measure`: the costs of finished cells again, and nothing but the costs."""

import copy
from pathlib import Path
from typing import Any

import pytest

from seqbench.measuring import latency
from seqbench.measuring.quiet import Watch, noise
from seqbench.results import read_record, write_record
from seqbench.results.records import Conditions
from tests.kit import SMALL, Bench

QUIET = Conditions(seconds=1.0, busy_cores=0.1, disturbances=[])
BUSY = Conditions(seconds=1.0, busy_cores=1.5, disturbances=["other processes kept 1.5 of 2 cores busy"])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Conditions]:
    """What every watch says from now on: the last entry."""
    said = [BUSY]
    monkeypatch.setattr(latency, "SPREAD", float("inf"))  # three samples on this machine may be unsteady
    monkeypatch.setattr(Watch, "conditions", lambda self: copy.deepcopy(said[-1]))
    return said


@pytest.fixture
def noisy(bench: Bench, machine: list[Conditions]) -> Bench:
    """Two finished cells whose costs were measured on a busy machine."""
    done = bench.run("--models", "lrurec,markov", *SMALL, "--epochs", "2")
    assert done.code == 0, done.err
    return bench


def measure(bench: Bench, *words: object) -> str:
    done = bench.call("measure", "--executor", "inline", *words)
    assert done.code == 0, done.err
    return done.words


def contents(bench: Bench, model: str) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in bench.folder(model).iterdir()}


def test_only_what_is_noisy_is_measured_again(noisy: Bench, machine: list[Conditions]) -> None:
    files, record = contents(noisy, "lrurec"), noisy.record("lrurec")
    machine.append(QUIET)
    said = measure(noisy, "--models", "lrurec", "--epochs", "1")
    assert "training and latency measured again" in said
    found = read_record(noisy.folder("lrurec") / "record.json")
    assert noise(found.cost, "training") == 0
    assert not any(point["conditions"]["disturbances"] for point in found.cost["latency"])
    assert found.cost["again"].keys() == {"training", "latency"}
    # What one long training took and gave cannot be repeated in an epoch.
    for name in ("peak_memory_bytes", "fit_seconds", "fit_conditions", "latency_grid", "parameters"):
        assert found.cost[name] == record["cost"][name], name
    for name in ("definition", "accuracy", "validation", "training", "started", "seconds", "environment", "status"):
        assert noisy.record("lrurec")[name] == record[name], name
    same = {"weights.safetensors", "ranks.parquet", "top.parquet"}
    assert {name for name in same if contents(noisy, "lrurec")[name] == files[name]} == same
    # The other cell was not asked for, and is still noisy.
    assert noise(read_record(noisy.folder("markov") / "record.json").cost, "training") > 0
    assert "Nothing is noisy" in measure(noisy, "--models", "lrurec")


def test_counting_is_measured_again_as_a_whole(noisy: Bench, machine: list[Conditions]) -> None:
    machine.append(QUIET)
    measure(noisy, "--models", "markov")
    cost = read_record(noisy.folder("markov") / "record.json").cost
    assert cost["conditions"] == cost["fit_conditions"] == QUIET
    assert cost["fit_seconds"] == 1.0


def test_a_noisier_repetition_is_dropped(noisy: Bench, machine: list[Conditions]) -> None:
    before = noisy.record("lrurec")["cost"]
    machine.append({**BUSY, "busy_cores": 1.9})
    assert "1 of 1 cells are still noisy" in measure(noisy, "--models", "lrurec")
    after = noisy.record("lrurec")["cost"]
    for name in ("epoch_seconds", "train_interactions_per_second", "conditions"):
        assert after[name] == before[name]


def test_other_points_are_measured_even_if_it_was_quiet(bench: Bench, machine: list[Conditions]) -> None:
    machine.append(QUIET)
    bench.run("--models", "lrurec", *SMALL, "--epochs", "1")
    assert "Nothing is noisy" in measure(bench)
    said = measure(bench, "--lengths", "8,16", "--batches", "2", "--modes", "whole")
    assert "latency measured again" in said
    assert "training" not in said
    points = bench.record("lrurec")["cost"]["latency"]
    assert {(each["batch"], each["length"]) for each in points if each["mode"] == "whole"} == {(2, 8), (2, 16)}
    assert (bench.folder("lrurec") / "samples.parquet").is_file()


def test_a_cell_of_another_machine_is_left_as_it_is(noisy: Bench) -> None:
    path = noisy.folder("lrurec") / "record.json"
    record = read_record(path)
    record.environment["cpu"] = "another processor"
    write_record(noisy.results, record)
    stored = Path(path).read_bytes()
    done = noisy.call("measure", "--executor", "inline", "--models", "lrurec")
    assert done.code == 1
    assert "was run with cpu another processor" in done.words
    assert path.read_bytes() == stored
