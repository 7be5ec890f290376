"""Carrying out one order in this process, whoever gave it."""

from seqbench.data.prepared import open_prepared
from seqbench.errors import SeqbenchError
from seqbench.events import Finished, Listener
from seqbench.execution.cell import run_cell
from seqbench.execution.orders import Order
from seqbench.locking import locked
from seqbench.models import find_model
from seqbench.ops.backends import AUTO, use
from seqbench.results import CHECKPOINT, finished_record
from seqbench.results.store import LOCK


def carry_out(order: Order, emit: Listener) -> Finished:
    """Run the cell of an order unless it is finished, alone among all processes, and return how it ended.

    Raises:
        SeqbenchError: what failed, in words.
    """
    definition = order.definition
    entry = find_model(order.model)
    if entry.source != definition.source:
        raise SeqbenchError(f"{order.model} has changed since the run began.", hint="Repeat the command.")
    folder = definition.folder(order.results)
    with locked(folder / LOCK, f"it is running {definition.label()}"):
        for left in folder.glob(".*.tmp"):  # of a worker that was killed
            left.unlink(missing_ok=True)
        if order.force:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        # Another process may have finished it while this one waited.
        record = None if order.force else finished_record(order.results, definition)
        if record is None:
            prepared = open_prepared(definition.dataset, order.home)
            if prepared.fingerprint != definition.fingerprint:
                raise SeqbenchError(
                    f"{prepared.name} was prepared anew since the run began.", hint="Repeat the command."
                )
            with use(definition.backend or AUTO):
                record = run_cell(order, entry.cls, prepared, emit)
    return Finished(record.accuracy, record.seconds)
