"""The executor that runs a cell in this very process: for notebooks, debuggers and tests.

Peak memory is then that of everything the process did, and a cell that is killed takes the caller along.
"""

from collections.abc import Sequence

from seqbench.errors import OutOfTime, UsageError
from seqbench.events import Listener, Outcome, Paused
from seqbench.execution import Executor
from seqbench.execution.failures import failed
from seqbench.execution.orders import Order
from seqbench.execution.slots import Slot
from seqbench.execution.stopping import Stop
from seqbench.execution.work import carry_out


def run(order: Order, on_event: Listener, stop: Stop | None = None) -> Outcome:
    """Run a cell here, to its end; see `seqbench.execution.Executor`."""
    try:
        return carry_out(order, on_event)
    except OutOfTime as error:
        return Paused(error.epoch)
    except Exception as error:
        return failed(error, order.model)


def one_slot(devices: Sequence[str], jobs: int | None, cells: int) -> list[Slot]:
    """Return the one place that a process has.

    Raises:
        UsageError: more are asked for.
    """
    if jobs is not None and jobs > 1:
        raise UsageError("--executor inline runs one cell at a time.", hint="Leave --jobs out, or --executor.")
    return [Slot(devices[0])]


EXECUTOR = Executor(run, one_slot)
