"""Running cells: what is ordered, what happens, and who does it.

`orders.py` has the order for a cell, `cell.py` carries it out and reports events (seqbench/events.py), an executor
decides how and where (`process.py`, `inline.py`, `ray_cluster.py`), `schedule.py` goes through many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqbench.execution.slots import Slot, on_this_machine
from seqbench.registry import Registry

if TYPE_CHECKING:
    from seqbench.events import Listener, Outcome
    from seqbench.execution.orders import Order
    from seqbench.execution.stopping import Stop


@dataclass(frozen=True)
class Executor:
    """A way to run cells.

    Args:
        run: called with an order, with what is called with everything that happens on the way, and with the request to
            end early, which comes from another thread; it runs the cell to its end and returns how it ended (which
            does not matter after that request). It is called from several threads at once, one for each slot.
        slots: called with the devices of the run, of one kind, how many cells are to run at a time (None: as many as is
            usual), and how many there are; returns where there is room, or raises UsageError.
    """

    run: "Callable[[Order, Listener, Stop], Outcome]"
    slots: Callable[[Sequence[str], int | None, int], list[Slot]] = on_this_machine


EXECUTORS: Registry[Executor] = Registry(
    "Executor",
    {
        "process": "seqbench.execution.process:EXECUTOR",
        "inline": "seqbench.execution.inline:EXECUTOR",
        "ray": "seqbench.execution.ray_cluster:EXECUTOR",
    },
    "seqbench run --help",
)
