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
    threads: int | None = None  # of the processor; None: as torch decides
    cores: tuple[int, ...] | None = None  # that a process of its own may use; None: all
    reserved: int | None = None  # cores of a cluster that are kept for it
    beside: int = 0  # other cells that run on its machine at the same time


def on_this_machine(devices: Sequence[str], jobs: int | None, cells: int) -> list[Slot]:
    """Return the places for cells on this machine.

    Every GPU is one. The CPU is divided into as many shares of cores as there are jobs; each job still has as many
    threads as one alone would have, because sums over another number of threads are cut in other places and come out
    different.

    Args:
        devices: names of one kind; for a CPU there is one.
        jobs: how many cells run at a time; None for all GPUs, or one on a CPU.
        cells: how many there are; more places are not needed.

    Raises:
        UsageError: there are more jobs than GPUs or cores.
    """
    if devices != ["cpu"]:
        if jobs is not None and jobs > len(devices):
            raise UsageError(f"--jobs {jobs} needs as many GPUs; this run has {', '.join(devices)}.")
        chosen = devices[: min(jobs or len(devices), cells)]
        threads = usual_threads() if len(chosen) > 1 else None
        return [Slot(device, threads, beside=len(chosen) - 1) for device in chosen]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if cores and jobs is not None and jobs > len(cores):
        raise UsageError(f"--jobs {jobs} needs as many cores; this process may use {len(cores)}.")
    count = min(jobs or 1, cells)
    if count == 1:
        return [Slot("cpu")]
    if not cores:
        console.warn("This operating system keeps no process on some of the cores: jobs share them all.")
    threads = usual_threads()
    shares = [tuple(cores[number::count]) or None for number in range(count)]
    return [Slot("cpu", threads, share, beside=count - 1) for share in shares]


def usual_threads() -> int:
    """Return how many threads torch uses of a processor that it has alone."""
    import torch

    return torch.get_num_threads()
