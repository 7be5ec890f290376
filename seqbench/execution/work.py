"""Carrying out one order in this process, whoever gave it."""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from seqbench.data.prepared import PreparedDataset, open_prepared
from seqbench.errors import SeqbenchError
from seqbench.events import Finished, Listener
from seqbench.execution.cell import run_cell
from seqbench.execution.costs import measure_cell
from seqbench.execution.orders import Order
from seqbench.execution.trial import try_cell
from seqbench.locking import locked
from seqbench.measuring.quiet import beside
from seqbench.models import find_model
from seqbench.models.base import Model
from seqbench.ops.backends import AUTO, use
from seqbench.precision import PRECISIONS
from seqbench.results import CHECKPOINT, Record
from seqbench.results.store import LOCK


def carry_out(order: Order, emit: Listener) -> Finished:
    """Run or try the cell of an order unless that is done, or measure it again, alone among all processes.

    Raises:
        SeqbenchError: what failed, in words.
    """
    definition = order.definition
    entry = find_model(order.model)
    if entry.source != definition.source:
        raise SeqbenchError(f"{order.model} has changed since the run began.", hint="Repeat the command.")
    folder = definition.folder(order.results)
    alone = locked(folder / LOCK, f"it is running {definition.label()}") if order.shared else nullcontext()
    with alone, beside(order.beside):
        for left in folder.glob(".*.tmp"):  # of a worker that was killed
            left.unlink(missing_ok=True)
        if order.again is None and order.force:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        record = order.outcome()  # another process may have finished it while this one waited
        if record is None:
            prepared = _prepared(order)
            precision = PRECISIONS[definition.precision].active(torch.device(order.device))
            with use(definition.backend or AUTO), precision:
                record = _way(order)(order, entry.cls, prepared, emit)
    return Finished(record.validation if order.attempt else record.accuracy, record.seconds)


def _way(order: Order) -> Callable[[Order, type[Model], PreparedDataset, Listener], Record]:
    if order.again is not None:
        return measure_cell
    return run_cell if order.attempt is None else try_cell


def _prepared(order: Order) -> PreparedDataset:
    """Open the data set of an order.

    Raises:
        SeqbenchError: it is not the one that the cell is defined on.
    """
    prepared = open_prepared(order.definition.dataset, order.home)
    if prepared.fingerprint == order.definition.fingerprint:
        return prepared
    if order.again is None:
        raise SeqbenchError(f"{prepared.name} was prepared anew since the run began.", hint="Repeat the command.")
    raise SeqbenchError(f"{prepared.name} was prepared anew since this cell was run.", hint="Use `seqbench run`.")
