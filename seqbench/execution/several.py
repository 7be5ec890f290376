"""The executor of a command that torchrun has started in several processes: all of them train each cell together.

The first process is the command, as it is without the others: it plans, prepares data, claims cells, shows, measures
and stores. The others follow: they wait for an order, do their share of its training and ranking, and wait again.

A cell that fails ends the command, in whichever process it failed: the others may be anywhere by then, waiting for one
that will not come.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from seqbench import console
from seqbench.distributed import Group, Lost
from seqbench.errors import OutOfTime, SeqbenchError, UsageError
from seqbench.events import Failed, Listener, Outcome, Paused, from_json, to_json
from seqbench.execution import EXECUTORS, Executor
from seqbench.execution.failures import failed
from seqbench.execution.orders import Order
from seqbench.execution.slots import Slot
from seqbench.execution.stopping import Stop
from seqbench.execution.work import carry_out, join

# How long a process that failed leaves the first one, if that failed as well, to store why: torchrun ends all
# processes as soon as one of them has failed.
GRACE_SECONDS = 3.0


def choose(name: str, group: Group) -> Executor:
    """Return the executor of the first process of a group; the one of a name if there is only one process.

    Raises:
        UsageError: it sends cells elsewhere.
    """
    if group.size == 1:
        return EXECUTORS[name]
    if name == "ray":
        raise UsageError(
            "Cells on a Ray cluster are trained by one process each.",
            hint="Leave --executor out, or start the command without torchrun.",
        )
    return Executor(partial(_run, group=group), partial(_slots, group=group))


def follow(group: Group) -> None:
    """Do the share of another process than the first, until there is nothing left to do.

    Raises:
        SystemExit: this process failed, or the first one has ended.
    """
    console.quiet(True)
    try:
        while text := group.hear():
            _join(Order.from_json(text), group)
    except Lost:
        raise SystemExit(1) from None  # whoever ended has said why
    except KeyboardInterrupt as stop:
        raise SystemExit(getattr(stop, "exit_code", 130)) from None


def _join(order: Order, group: Group) -> None:
    try:
        join(replace(order, device=group.device(order.device)), group)
    except OutOfTime:
        return
    except Lost:
        raise
    except Exception as error:
        found = failed(error, order.model)
        found = replace(found, message=f"rank {group.rank}: {found.message}")
        group.report(to_json(found))
        time.sleep(GRACE_SECONDS)
        console.fail(f"{order.label}: {found.message}", found.hint)
        raise SystemExit(1) from None


def _run(order: Order, on_event: Listener, stop: Stop, *, group: Group) -> Outcome:
    """Run a cell with all processes; see `seqbench.execution.Executor`.

    Raises:
        SeqbenchError: a cell before it failed.
    """
    if group.broken:
        raise SeqbenchError(
            "Several processes that train together end with the first cell that fails.",
            hint="Repeat the command for the cells that are left.",
        )
    group.broken = True  # until all have come to the end of the cell
    outcome: Outcome
    try:
        outcome = carry_out(order, on_event, group)
    except OutOfTime as error:
        outcome = Paused(error.epoch)
    except Lost as error:
        told = group.reported()
        outcome = Failed("killed", error.message, error.hint) if told is None else _failure(told)
        return outcome
    except Exception as error:
        return failed(error, order.model)
    group.broken = False
    return outcome


def _failure(text: str) -> Failed:
    event = from_json(text)
    assert isinstance(event, Failed)
    return event


def _slots(devices: Sequence[str], jobs: int | None, cells: int, *, group: Group) -> list[Slot]:
    """Return the one place that all processes are.

    Raises:
        UsageError: more are asked for, or a process has no GPU.
    """
    if jobs is not None and jobs > 1:
        raise UsageError("Processes that torchrun started train one cell at a time.", hint="Leave --jobs out.")
    here = 1 + len(group.neighbours)
    if devices[0] != "cpu" and len(devices) < here:
        raise UsageError(
            f"{here} processes need as many GPUs; this run has {', '.join(devices)}.",
            hint="Start fewer with --nproc-per-node, or use --device cuda.",
        )
    return [Slot(group.device(devices[0]))]
