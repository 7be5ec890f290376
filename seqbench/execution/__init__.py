"""Running cells: what is ordered, what happens, and who does it.

`orders.py` has the order for a cell, `cell.py` carries it out and reports events (seqbench/events.py), an executor
decides how (`process.py`, `inline.py`), `slots.py` says where there is room, `schedule.py` goes through many.
"""

from typing import TYPE_CHECKING, Protocol

from seqbench.registry import Registry

if TYPE_CHECKING:
    from seqbench.events import Listener, Outcome
    from seqbench.execution.orders import Order
    from seqbench.execution.stopping import Stop


class Executor(Protocol):
    """A way to run one cell."""

    def __call__(self, order: "Order", on_event: "Listener", stop: "Stop") -> "Outcome":
        """Run a cell to its end, and return how it ended.

        Args:
            order: which cell, and how.
            on_event: called with everything that happens on the way, in order.
            stop: asks for an early end, from another thread; what is returned then does not matter.
        """


EXECUTORS: Registry[Executor] = Registry(
    "Executor",
    {"process": "seqbench.execution.process:run", "inline": "seqbench.execution.inline:run"},
    "seqbench run --help",
)
