"""Where cells run side by side: a GPU each, or a share of the processor's cores each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from seqbench import console
from seqbench.errors import UsageError


@dataclass(frozen=True)
class Slot:
    """A place for one cell at a time."""

    device: str  # such as "cpu" or "cuda:1"
    cores: tuple[int, ...] | None = None  # that its process may use; None: all


def slots(devices: Sequence[str], jobs: int | None) -> list[Slot]:
    """Return the places for cells.

    Every GPU is one. The CPU is divided into as many shares of cores as there are jobs; each job still has as many
    threads as one alone would have, because sums over another number of threads are cut in other places and come out
    different.

    Args:
        devices: names of one kind; for a CPU there is one.
        jobs: how many cells run at a time; None for all GPUs, or one on a CPU.

    Raises:
        UsageError: there are more jobs than GPUs or cores.
    """
    if devices != ["cpu"]:
        if jobs is not None and jobs > len(devices):
            raise UsageError(f"--jobs {jobs} needs as many GPUs; this run has {', '.join(devices)}.")
        return [Slot(device) for device in devices[:jobs]]
    if jobs in (None, 1):
        return [Slot("cpu")]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not cores:
        console.warn("This operating system keeps no process on some of the cores: jobs share them all.")
        return [Slot("cpu")] * jobs
    if jobs > len(cores):
        raise UsageError(f"--jobs {jobs} needs as many cores; this process may use {len(cores)}.")
    return [Slot("cpu", tuple(cores[number::jobs])) for number in range(jobs)]
