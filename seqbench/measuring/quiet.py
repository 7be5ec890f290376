"""Whether the machine was quiet while something was measured, and how much energy that took."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import psutil
import torch

from seqbench.device import kind
from seqbench.distributed import ALONE, Group
from seqbench.results.records import Conditions, Cost, Part

BUSY = 0.2  # of the cores: if other processes keep more busy, figures are noisy
_BESIDE: ContextVar[int] = ContextVar("beside", default=0)
SHORTEST = 0.2  # seconds: processor times come in hundredths
LISTENING = 0.3  # seconds


class Watch:
    """Counters at a moment; `conditions` says what happened since.

    Args:
        device: what the measured work runs on; its own disturbances and energy count, too.
        group: the processes that do the work together; nobody sums the energy of several.
    """

    def __init__(self, device: torch.device, group: Group = ALONE) -> None:
        self._device = device
        self._group = group
        self._meter = kind(device).energy(device) if group.size == 1 else None
        self._busy, self._own, self._at = _busy_seconds(), _own_seconds(group), time.perf_counter()

    def conditions(self) -> Conditions:
        """Return how busy others kept the machine since this watch was made."""
        seconds = time.perf_counter() - self._at
        found = Conditions(seconds=seconds, joules=None if self._meter is None else self._meter(), disturbances=[])
        if self._meter is not None and seconds < kind(self._device).energy_period:
            found["joules_coarse"] = True
        if seconds < SHORTEST:
            return found
        taken = (_busy_seconds() - self._busy) - (_own_seconds(self._group) - self._own)
        cores = psutil.cpu_count() or 1
        found["busy_cores"] = max(0.0, taken / seconds)
        if found["busy_cores"] > BUSY * cores:
            found["disturbances"].append(f"other processes kept {found['busy_cores']:.1f} of {cores} cores busy")
        if others := _BESIDE.get():
            found["disturbances"].append(f"{others} other cell{'s' if others > 1 else ''} ran beside it")
        found["disturbances"] += kind(self._device).disturbances(self._device)
        return found


@contextmanager
def beside(others: int) -> Iterator[None]:
    """Say in all conditions of the block that so many other cells run on this machine at the same time."""
    before = _BESIDE.set(others)
    try:
        yield
    finally:
        _BESIDE.reset(before)


def listen(device: torch.device) -> Conditions:
    """Return how busy others keep the machine just now, while this process waits for LISTENING seconds."""
    watch = Watch(device)
    time.sleep(LISTENING)
    return watch.conditions()


def noise(cost: Cost, part: Part) -> float:
    """Return how noisy a part of a cell's costs is: 0 if it is quiet; of two, the larger is the worse."""
    if part == "training":
        found = cost.get("conditions", {})
        return 1 + found.get("busy_cores", 0.0) if found.get("disturbances") else 0.0
    points = cost.get("latency", [])
    return sum(bool(each.get("unsteady") or each.get("conditions", {}).get("disturbances")) for each in points)


def _busy_seconds() -> float:
    """Return the seconds of all cores in which they were not idle, in all processes; stolen ones count."""
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # guests are part of user and nice
    return sum(float(seconds) for name, seconds in times.items() if name not in idle)


def _own_seconds(group: Group) -> float:
    """Return the seconds that this process, its finished children and the others of its group on this machine used."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    for neighbour in group.neighbours:
        with suppress(psutil.NoSuchProcess):
            used = psutil.Process(neighbour).cpu_times()
            own += used.user + used.system
    return own
