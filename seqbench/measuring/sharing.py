"""Sharing the processor with other programs, without changing a number.

The threads of libgomp, torch's thread pool on Linux, spin at the end of every parallel loop until the last of them
arrives. Where another process has taken a core the last one is not running, and the others spin until it is given the
core again: a training on two cores, one of which is taken, falls to a hundredth of its speed, far below that of a
single thread. Other numbers of threads would not help: sums are cut in other places then, and come out different.

So the threads stay, and while others leave too few cores for them
- they are kept on the cores that are free, where they take turns, and
- they spin for microseconds instead of milliseconds, then sleep. libgomp does that while it has more threads than the
  process has cores (its manual: GOMP_SPINCOUNT); a pool of idle threads makes them more, until it is not needed.

Nothing is changed on a quiet machine.
"""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from seqbench.results.records import Sharing

SECONDS = 0.4  # between two looks at the machine
TAKEN = 0.3  # of a core: from here on it is taken
RELEASED = 0.2  # below it, it is free again

# With one of these, the user has decided how threads wait and where they run.
DECIDED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY")

PROC = Path("/proc")


@dataclass(frozen=True)
class CoreTimes:
    """Seconds of processor time by core since the machine and this process started."""

    all: Mapping[int, float]  # of all processes
    own: Mapping[int, float]  # of this process, each thread's where it ran last

    @classmethod
    def now(cls) -> "CoreTimes":
        """Read them from /proc; see proc(5)."""
        tick = os.sysconf("SC_CLK_TCK")
        busy: dict[int, float] = {}
        for line in (PROC / "stat").read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name != "cpu":
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                busy[int(name[3:])] = (user + nice + system + irq + softirq + steal) / tick
        own: dict[int, float] = {}
        for task in (PROC / "self" / "task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                core = int(fields[36])
                own[core] = own.get(core, 0.0) + (int(fields[11]) + int(fields[12])) / tick
        return cls(busy, own)


@dataclass(frozen=True)
class Decision:
    """Whether threads have to share cores with others, and which cores they are kept on."""

    crowded: bool
    cores: frozenset[int]


def decide(
    before: CoreTimes, after: CoreTimes, seconds: float, cores: frozenset[int], threads: int, *, crowded: bool
) -> Decision:
    """Decide from what happened between two looks.

    Args:
        seconds: between the looks.
        cores: all that this process may use.
        threads: of this process that work at once.
        crowded: what was decided before; what is taken has to become freer than that to be left.
    """

    def passed(times: Mapping[int, float], earlier: Mapping[int, float], core: int) -> float:
        return (times.get(core, 0.0) - earlier.get(core, 0.0)) / seconds

    busy = {core: passed(after.all, before.all, core) for core in cores}
    # Of one core this is right only if no thread moved; their sum is right whatever moved.
    others = {core: busy[core] - passed(after.own, before.own, core) for core in cores}
    spare = len(cores) - threads
    if sum(others.values()) <= spare + (RELEASED if crowded else TAKEN):
        return Decision(False, cores)
    free = frozenset(core for core in cores if others[core] < TAKEN)
    return Decision(True, free or cores)


class _IdlePool:
    """Threads of libgomp that do nothing, so many that it has more than there are cores."""

    def __init__(self, gomp: ctypes.CDLL, size: int) -> None:
        self._made, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(gomp, size), daemon=True)
        self._thread.start()
        self._made.wait()

    def _hold(self, gomp: ctypes.CDLL, size: int) -> None:
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of a null pointer it does nothing
        gomp.GOMP_parallel(nothing, None, ctypes.c_uint(size), ctypes.c_uint(0))
        self._made.set()
        self._end.wait()  # the pool belongs to this thread, and ends with it

    def close(self) -> None:
        self._end.set()
        self._thread.join()


class _Sharer:
    """The thread that looks, and does what was decided."""

    def __init__(self, gomp: ctypes.CDLL, threads: int) -> None:
        self.threads = threads
        self.seconds = 0.0  # in which cores were shared
        self._gomp = gomp
        self._cores = self._kept = frozenset(os.sched_getaffinity(0))
        self._pool: _IdlePool | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sharing cores", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        times, at = CoreTimes.now(), time.perf_counter()
        while not self._end.wait(SECONDS):
            now, then = CoreTimes.now(), time.perf_counter()
            crowded = self._pool is not None
            if crowded:
                self.seconds += then - at
            decision = decide(times, now, then - at, self._cores, self.threads, crowded=crowded)
            times, at = now, then
            if decision.crowded and self._pool is None:
                self._pool = _IdlePool(self._gomp, len(self._cores) + 1)
            self._keep(decision.cores)
            if not decision.crowded:
                self._quiet()
        if self._pool is not None:
            self.seconds += time.perf_counter() - at

    def _keep(self, cores: frozenset[int]) -> None:
        """Let all threads of this process run on these cores only."""
        if cores == self._kept == self._cores:
            return
        self._kept = cores
        for task in (PROC / "self" / "task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), cores)

    def _quiet(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._keep(self._cores)
        self._quiet()


@contextlib.contextmanager
def sharing(device: torch.device) -> Iterator[Sharing]:
    """Share cores with other programs for as long as the context lasts.

    Yields:
        What was done: complete when the context has ended.
    """
    gomp = None if device.type != "cpu" or any(os.environ.get(name) for name in DECIDED) else _libgomp()
    threads = torch.get_num_threads()
    done = Sharing(watched=gomp is not None and threads > 1, seconds=0.0)
    if gomp is None or threads == 1:  # a single thread waits for nobody
        yield done
        return
    sharer = _Sharer(gomp, threads)
    try:
        yield done
    finally:
        sharer.close()
        done["seconds"] = sharer.seconds


def _libgomp() -> ctypes.CDLL | None:
    """Return the libgomp that this process has loaded; None where there is none, or no /proc."""
    try:
        mapped = (PROC / "self" / "maps").read_text(encoding="utf-8")
        path = next((line.split(maxsplit=5)[5] for line in mapped.splitlines() if "libgomp" in line), None)
        return None if path is None else ctypes.CDLL(path)
    except OSError:
        return None
