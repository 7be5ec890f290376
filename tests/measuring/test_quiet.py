"""Whether the machine was quiet, told from counters of processor time."""

import time
from collections.abc import Callable

import pytest
import torch

from seqbench.device import DEVICES
from seqbench.measuring import quiet
from seqbench.measuring.quiet import SHORTEST, Watch

CPU = torch.device("cpu")


class Machine:
    """A machine of four cores, whose counters the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = self.busy = self.own = 0.0
        self.joules: float | None = None
        monkeypatch.setattr(time, "perf_counter", lambda: self.clock)
        monkeypatch.setattr(quiet, "_busy_seconds", lambda: self.busy)
        monkeypatch.setattr(quiet, "_own_seconds", lambda group: self.own)
        monkeypatch.setattr(quiet.psutil, "cpu_count", lambda: 4)
        monkeypatch.setattr(type(DEVICES["cpu"]), "energy", lambda self_, device: self.meter())

    def meter(self) -> Callable[[], float] | None:
        before = self.joules
        return None if before is None else lambda: (self.joules or 0.0) - before

    def passes(self, seconds: float, *, own: float, others: float, joules: float = 0.0) -> None:
        self.clock += seconds
        self.own += own * seconds
        self.busy += (own + others) * seconds
        if self.joules is not None:
            self.joules += joules


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize(
    ("others", "words"),
    [(0.0, []), (0.7, []), (1.3, ["other processes kept 1.3 of 4 cores busy"])],
)
def test_others_are_what_is_busy_and_not_ours(machine: Machine, others: float, words: list[str]) -> None:
    machine.passes(5.0, own=1.0, others=3.0)  # before
    watch = Watch(CPU)
    machine.passes(10.0, own=2.0, others=others)
    found = watch.conditions()
    assert found["busy_cores"] == pytest.approx(others)
    assert (found["disturbances"], found["seconds"]) == (words, 10.0)


def test_what_is_too_short_for_the_counters_is_not_judged(machine: Machine) -> None:
    watch = Watch(CPU)
    machine.passes(SHORTEST / 2, own=1.0, others=4.0)
    found = watch.conditions()
    assert "busy_cores" not in found
    assert found["disturbances"] == []


def test_energy_is_absent_without_a_counter_and_flagged_if_the_counter_is_too_slow(machine: Machine) -> None:
    watch = Watch(CPU)
    assert watch.conditions()["joules"] is None
    machine.joules = 100.0
    watch = Watch(CPU)
    machine.passes(2.0, own=1.0, others=0.0, joules=30.0)
    found = watch.conditions()
    assert (found["joules"], "joules_coarse" in found) == (30.0, False)
    watch = Watch(CPU)
    machine.passes(DEVICES["cpu"].energy_period / 2, own=1.0, others=0.0, joules=1.0)
    found = watch.conditions()
    assert (found["joules"], found["joules_coarse"]) == (1.0, True)


def test_the_counters_of_this_machine_are_read() -> None:
    watch = Watch(CPU)
    end = time.process_time() + 2 * SHORTEST
    while time.process_time() < end:
        pass
    found = watch.conditions()
    assert 0 <= found["busy_cores"] <= (quiet.psutil.cpu_count() or 1)
    assert found["seconds"] >= 2 * SHORTEST
