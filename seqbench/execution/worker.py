"""The process that runs one cell: its order as JSON on stdin, its events as JSON lines on stdout.

A process per cell keeps peak memory honest, and a cell that is killed (by the kernel for its memory, say) leaves
the others alone. The worker ends itself when stdin closes, so that it never outlives the command it works for.
"""

import contextlib
import os
import signal
import sys
import threading

from seqbench.events import Event, to_json
from seqbench.execution.orders import Order
from seqbench.signals import ENDING


def main() -> None:
    """Read one order, run it, and report `Finished` or `Failed` as the last event."""
    for number in ENDING:  # they may reach the whole group
        signal.signal(number, signal.SIG_IGN)  # the parent decides
    order = Order.from_json(sys.stdin.readline())
    if order.cores is not None:  # before any library counts them
        os.sched_setaffinity(0, order.cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an event

    def emit(event: Event) -> None:
        events.write(to_json(event) + "\n")
        events.flush()

    import torch

    from seqbench.execution.inline import run

    if order.threads is not None:
        torch.set_num_threads(order.threads)
    try:
        emit(run(order, emit))
    except BrokenPipeError:
        os._exit(1)


def _end_with_parent() -> None:
    with contextlib.suppress(Exception):
        sys.stdin.read()
    os._exit(1)
