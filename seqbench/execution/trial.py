"""One trial of a search: a cell that is trained and validated, and neither tested nor measured."""

import time
from datetime import UTC, datetime

import torch

from seqbench import environment
from seqbench.data.prepared import PreparedDataset
from seqbench.device import kind
from seqbench.evaluation.ranking import rank
from seqbench.events import Begun, Listener, Phase, Pruned, following
from seqbench.execution.cell import builder, fit
from seqbench.execution.orders import Order
from seqbench.measuring.process import fix_allocator
from seqbench.measuring.sharing import sharing
from seqbench.models.base import Model
from seqbench.ops import backends
from seqbench.results import CHECKPOINT, Record, write_record
from seqbench.results.facts import dataset_facts
from seqbench.results.records import Environment
from seqbench.settings import changes


def try_cell(order: Order, cls: type[Model], prepared: PreparedDataset, emit: Listener) -> Record:
    """Train and validate one cell, or give it up at a bar, and store the record of that.

    The same training as that of `run_cell`. No test figure is computed, so that none can decide.

    Raises:
        SeqbenchError: what failed, in words; the checkpoint of the last finished epoch stays.
    """
    assert order.attempt is not None
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    definition, device = order.definition, torch.device(order.device)
    machine, changed = environment.describe(order.device), changes(cls, definition.config, definition.training)
    emit(Begun(machine, changed))
    sequences = prepared.split(definition.protocol.split)
    fix_allocator()
    peak = kind(device).peak_memory(device)
    model = builder(cls, sequences, definition)(definition.protocol.max_len).to(device)
    with sharing(device):
        fitted = fit(model, sequences, order, device, peak, emit)
        assert fitted.training is not None
        if not fitted.complete:
            best = max(entry["validation"] or 0.0 for entry in fitted.training["history"])
            epoch = fitted.training["epochs"]
            emit(Pruned(epoch, best, order.attempt.bars[epoch - 1]))
        emit(Phase("validating"))
        progress = following("validating", emit)
        valid = rank(model, sequences, sequences.valid(), definition.protocol, progress=progress)
    record = Record(
        definition=definition,
        status="trial",
        started=started,
        seconds=fitted.earlier_seconds + time.perf_counter() - began,
        environment=machine | Environment(operators=backends.used()),
        dataset=dataset_facts(prepared, sequences, definition.protocol),
        validation=valid.metrics(),
        training=fitted.training,
        cost=fitted.cost,
        changes=changed,
        uses_times=cls.Config(**definition.config).uses_times,
        trial=order.attempt.trial(pruned=not fitted.complete),
    )
    write_record(order.results, record)
    (definition.folder(order.results) / CHECKPOINT).unlink(missing_ok=True)
    return record
