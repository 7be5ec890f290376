"""Sharing cores: what is decided of counters, and that it is undone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from seqbench.measuring import sharing
from seqbench.measuring.sharing import CoreTimes, decide
from tests.kit import PATIENCE

CPU = torch.device("cpu")
START = CoreTimes({}, {})

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose its cores")


@pytest.mark.parametrize(
    ("busy", "own", "threads", "expected"),
    [
        pytest.param({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}, 2, None, id="nobody else"),
        pytest.param({0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.5}, 2, {0}, id="half of one core is taken"),
        pytest.param({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}, 2, {0, 1}, id="every core is taken"),
        pytest.param({0: 1.0, 1: 1.0}, {0: 0.9, 1: 0.95}, 2, None, id="daemons"),
        pytest.param({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.0, 1: 1.0}, 2, None, id="a core to spare"),
        pytest.param({0: 0.0, 1: 1.0}, {0: 1.0, 1: 0.0}, 2, None, id="a thread that moved"),
    ],
)
def test_cores_are_shared_where_others_leave_too_few(
    busy: dict[int, float], own: dict[int, float], threads: int, expected: set[int] | None
) -> None:
    decision = decide(START, CoreTimes(busy, own), 1.0, frozenset(busy), threads, crowded=False)
    assert (decision.cores if decision.crowded else None) == expected


def test_a_core_has_to_be_left_before_it_counts_as_free() -> None:
    def after(others: float, crowded: bool) -> bool:
        times = CoreTimes({0: 1.0, 1: others}, {0: 1.0})
        return decide(START, times, 1.0, frozenset({0, 1}), 2, crowded=crowded).crowded

    assert [after(others, crowded=False) for others in (0.1, 0.25, 0.4)] == [False, False, True]
    assert [after(others, crowded=True) for others in (0.1, 0.25, 0.4)] == [False, True, True]


def test_rates_are_of_the_time_between_two_looks() -> None:
    before = CoreTimes({0: 100.0, 1: 50.0}, {0: 90.0, 1: 20.0})
    after = CoreTimes({0: 102.0, 1: 52.0}, {0: 92.0, 1: 21.0})
    assert decide(before, after, 2.0, frozenset({0, 1}), 2, crowded=False).cores == {0}


@linux
def test_times_of_cores_are_read() -> None:
    before = CoreTimes.now()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    after = CoreTimes.now()
    assert set(os.sched_getaffinity(0)) <= after.all.keys()
    assert sum(after.own.values()) - sum(before.own.values()) == pytest.approx(0.1, abs=0.05)
    assert all(after.all[core] >= before.all[core] for core in before.all)


WORKING = """
import contextlib, itertools, os
import torch
from seqbench.measuring import sharing
from seqbench.measuring.sharing import CoreTimes
from tests.kit import poll

torch.set_num_threads(2)
torch.ones(1 << 20).add_(1)  # starts the pool
cores = sorted(os.sched_getaffinity(0))
second = itertools.count()

def now(cls):
    at = next(second) * 1000.0
    return CoreTimes(dict.fromkeys(cores, at), dict.fromkeys(cores[:-1], at))

CoreTimes.now = classmethod(now)
sharing.SECONDS = 0.01
def everywhere():
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended since it was listed
            found.add(frozenset(os.sched_getaffinity(int(task))))
    return found

with sharing.sharing(torch.device("cpu")) as done:
    for _ in poll(20):
        if everywhere() == {frozenset(cores[:-1])}:
            break
    print(len(os.listdir("/proc/self/task")), everywhere() == {frozenset(cores[:-1])}, float(torch.ones(1 << 20).sum()))
print(everywhere() == {frozenset(cores)}, done["watched"], done["seconds"] > 0)
"""


@linux
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_threads_are_kept_on_the_free_cores_and_let_go_again() -> None:
    root = str(Path(__file__).parents[2])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP"))}
    done = subprocess.run(
        [sys.executable, "-c", WORKING],
        env=environment | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    (threads, kept, total), (free, *rest) = (line.split() for line in done.stdout.splitlines())
    assert (kept, total) == ("True", str(float(1 << 20)))
    assert int(threads) > 2
    assert (free, *rest) == ("True", "True", "True")


def test_a_single_thread_shares_nothing() -> None:
    with sharing.sharing(CPU) as done:
        pass
    assert done == {"watched": False, "seconds": 0.0}


@pytest.mark.parametrize("name", sharing.DECIDED)
def test_the_users_own_settings_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with sharing.sharing(CPU) as done:
        assert not done["watched"]
