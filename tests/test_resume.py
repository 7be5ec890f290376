"""Runs that are killed or interrupted at any moment, and repeated until they are done."""

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kit import SMALL, TINY, Bench, Running, all_gone

EPOCHS = 60  # on a fast machine still a second or two, so that several kills fall into the training
WORDS = ("run", *TINY, *SMALL, "--models", "lrurec", "--epochs", str(EPOCHS))

INLINE = ("--executor", "inline")

SAVED = "Finished runs are kept; repeat the command to resume"


def outcome_of(bench: Bench) -> dict[str, Any]:
    """All of a finished cell that must not depend on how often it was interrupted."""
    record = bench.record("lrurec")
    assert record["status"] == "finished"
    training = record["training"]
    return {
        "files": bench.files(),
        "accuracy": record["accuracy"],
        "validation": record["validation"],
        "best_epoch": training["best_epoch"],
        "stopped_early": training["stopped_early"],
        "history": [(entry["epoch"], entry["loss"], entry["validation"]) for entry in training["history"]],
        "ranks": (bench.folder("lrurec") / "ranks.parquet").read_bytes(),
    }


@pytest.fixture(scope="module")
def uninterrupted(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bench = Bench(home, tmp_path_factory.mktemp("uninterrupted"))
    assert bench.call(*WORDS, *INLINE).code == 0
    return outcome_of(bench)


def finish(bench: Bench) -> str:
    """Repeat the command to its end; what it said."""
    outcome = bench.call(*WORDS, *INLINE)
    assert outcome.code == 0, outcome.err
    return outcome.err


def finished_epochs(running: Running) -> int:
    return sum(": epoch " in line for line in running.lines)


def kill_at_random(bench: Bench, rng: random.Random, kills: int) -> list[Running]:
    """Start the command and kill it, again and again: while it starts, trains, or evaluates and stores."""
    killed = []
    for number in range(kills):
        running = bench.start(*WORDS)
        if number == kills - 1:
            running.saw(f"epoch {EPOCHS}/{EPOCHS}")
        elif number % 3 == 2:
            time.sleep(rng.uniform(0, 3))
        else:
            epochs = rng.randint(1, 4)
            while finished_epochs(running) < epochs and running.process.poll() is None:
                time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.12))
        children = running.children()
        running.process.kill()
        running.wait()
        assert all_gone(children), "a worker outlived its command"
        killed.append(running)
    return killed


class Killed(BaseException):
    """Nothing catches it."""


def test_killed_around_every_file_that_is_put_in_place_the_outcome_is_the_same(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", *TINY, *SMALL, "--models", "lrurec", "--epochs", "3")
    straight = Bench(bench.home, tmp_path / "straight", bench.capsys)
    assert straight.call(*words, *INLINE).code == 0
    names = ["checkpoint.safetensors"] * 3 + [
        "weights.safetensors",
        "ranks.parquet",
        "top.parquet",
        "samples.parquet",
        "record.json",
    ]
    moments = [(when, name) for name in names for when in ("before", "after")][:-1]  # after the last it is finished
    replace = Path.replace

    def kill(temporary: Path, target: Path) -> None:
        if moments and moments[0] == ("before", target.name):
            shutil.copy(temporary, target.with_name(f".{target.name}.1.tmp"))  # who is killed does not clean up
            del moments[0]
            raise Killed
        replace(temporary, target)
        if moments and moments[0] == ("after", target.name):
            del moments[0]
            raise Killed

    monkeypatch.setattr(Path, "replace", kill)
    while moments:
        with pytest.raises(Killed):
            bench.call(*words, *INLINE)
    assert list(bench.results.rglob("*.tmp"))
    assert bench.call(*words, *INLINE).code == 0
    assert outcome_of(bench) == outcome_of(straight)


def test_a_command_that_is_killed_takes_its_worker_along_and_is_resumed(
    bench: Bench, uninterrupted: dict[str, Any]
) -> None:
    running = bench.start(*WORDS)
    assert running.saw("epoch 3/")
    children = running.children()
    running.process.kill()
    running.wait()
    assert children
    assert all_gone(children)
    assert "resumed after epoch" in finish(bench)
    assert outcome_of(bench) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_the_outcome_is_the_same(
    seed: int, bench: Bench, uninterrupted: dict[str, Any]
) -> None:
    killed = kill_at_random(bench, random.Random(seed), kills=12)
    said = finish(bench)
    resumed = [words for words in ["".join(running.lines) for running in killed] + [said] if "resumed after" in words]
    assert len(resumed) >= 2, "the kills did not hit the training"
    assert outcome_of(bench) == uninterrupted
    assert not list(bench.results.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "parent only"])
def test_an_interrupted_run_says_how_to_go_on_and_does(
    whole_group: bool, bench: Bench, uninterrupted: dict[str, Any]
) -> None:
    running = bench.start(*WORDS)
    assert running.saw("epoch 3/")
    children = running.children()
    if whole_group:
        os.killpg(running.process.pid, signal.SIGINT)
    else:
        running.process.send_signal(signal.SIGINT)
    outcome = running.wait()
    assert outcome.code == 130
    assert SAVED in outcome.words
    assert "Traceback" not in outcome.err
    assert all_gone(children)
    if not whole_group:
        return
    assert "resumed after epoch" in finish(bench)
    assert outcome_of(bench) == uninterrupted


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, True, marks=pytest.mark.slow),
    ],
)
def test_what_a_scheduler_or_a_closing_terminal_sends_is_taken_as_an_interrupt(
    number: signal.Signals, whole_group: bool, bench: Bench
) -> None:
    running = bench.start(*WORDS)
    assert running.saw("epoch 2/")
    children = running.children()
    (os.killpg if whole_group else os.kill)(running.process.pid, number)
    outcome = running.wait()
    assert outcome.code == 128 + number
    assert SAVED in outcome.words
    assert "Traceback" not in outcome.err
    assert all_gone(children)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1 * step for step in range(1, 16)])
def test_an_interrupt_while_a_cell_starts_leaves_no_traceback_and_no_process(seconds: float, bench: Bench) -> None:
    running = bench.start(*WORDS)
    worker = running.worker()
    time.sleep(seconds)
    os.killpg(running.process.pid, signal.SIGINT)
    outcome = running.wait()
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert all_gone([worker])
