"""Carrying out one order in this process, whoever gave it, or the share of it that this process has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch

from seqbench.data.prepared import PreparedDataset, open_prepared
from seqbench.distributed import ALONE, Group
from seqbench.errors import SeqbenchError
from seqbench.events import Finished, Listener
from seqbench.execution.cell import join_cell, run_cell
from seqbench.execution.costs import measure_cell
from seqbench.execution.orders import Order
from seqbench.execution.trial import try_cell
from seqbench.locking import locked
from seqbench.measuring.quiet import beside
from seqbench.models import ModelEntry, find_model
from seqbench.models.base import Model, SequenceModel
from seqbench.ops.backends import AUTO, use
from seqbench.precision import PRECISIONS
from seqbench.results import CHECKPOINT, Record
from seqbench.results.store import LOCK


def carry_out(order: Order, emit: Listener, group: Group = ALONE) -> Finished:
    """Run or try the cell of an order unless that is done, or measure it again, alone among all processes.

    Args:
        group: processes that run a cell together; the others `join` when the first one tells them the order, which it
            does if there is something to be trained.

    Raises:
        SeqbenchError: what failed, in words.
    """
    definition = order.definition
    entry = _entry(order)
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
            if not issubclass(entry.cls, SequenceModel):
                group = ALONE  # nothing can be divided of a model that counts
            group.tell(order.to_json())
            with _computing(order):
                record = _way(order, group)(order, entry.cls, prepared, emit)
    return Finished(record.validation if order.attempt else record.accuracy, record.seconds)


def join(order: Order, group: Group) -> None:
    """Do this process's share of an order that the first process of its group carries out.

    Raises:
        SeqbenchError: what failed, in words.
    """
    cls, prepared = _entry(order).cls, _prepared(order)
    with _computing(order):
        join_cell(order, cls, prepared, group)


def _entry(order: Order) -> ModelEntry:
    """Find the model of an order.

    Raises:
        SeqbenchError: its code is not that of the definition.
    """
    entry = find_model(order.model)
    if entry.source != order.definition.source:
        raise SeqbenchError(f"{order.model} has changed since the run began.", hint="Repeat the command.")
    return entry


@contextmanager
def _computing(order: Order) -> Iterator[None]:
    """Compute with the operators and in the precision of an order."""
    precision = PRECISIONS[order.definition.precision].active(torch.device(order.device))
    with use(order.definition.backend or AUTO), precision:
        yield


def _way(order: Order, group: Group) -> Callable[[Order, type[Model], PreparedDataset, Listener], Record]:
    if order.again is not None:
        return measure_cell
    return partial(run_cell, group=group) if order.attempt is None else try_cell


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
