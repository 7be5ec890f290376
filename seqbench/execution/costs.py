"""The costs of a finished cell, measured once more: accuracy, weights and all else stay as they are."""

import dataclasses
from datetime import UTC, datetime

import torch

from seqbench import environment
from seqbench.data.prepared import PreparedDataset
from seqbench.data.sequences import Sequences
from seqbench.errors import SeqbenchError
from seqbench.events import Begun, Listener, Phase
from seqbench.execution.cell import builder, costs_of_epochs, latency_cost
from seqbench.execution.orders import Order
from seqbench.measuring.process import fix_allocator, load_optimizer
from seqbench.measuring.quiet import Watch, noise
from seqbench.measuring.sharing import sharing
from seqbench.models import external
from seqbench.models.base import CountingModel, Model, SequenceModel, TrainingConfig
from seqbench.results import RECORD, WEIGHTS, Record, read_record, write_record
from seqbench.results.records import Again, Cost, Environment, Part
from seqbench.results.weights import load_weights
from seqbench.training.loop import Trainer

# What times depend on and a record must not mix. The code may be another one: the record says which.
MACHINE = ("cpu", "cores", "threads", "device_name", "torch")


def measure_cell(order: Order, cls: type[Model], prepared: PreparedDataset, emit: Listener) -> Record:
    """Measure parts of a finished cell's cost again, and store those that are not noisier than they were.

    Training goes on from the stored weights (from the first ones if none were kept) for a few epochs, whose outcome is
    dropped. Peak memory, the time of the whole training and the time to the best epoch stay: they are of that training.

    Raises:
        SeqbenchError: the cell is not finished, or was run on another machine.
    """
    assert order.again is not None
    definition = order.definition
    record = read_record(definition.folder(order.results) / RECORD)
    if not record.finished:
        raise SeqbenchError(f"{definition.label()} is not finished.", hint="Finish it with `seqbench run`.")
    machine = environment.describe(order.device)
    _check_machine(record, machine)
    emit(Begun(machine, record.changes or {}))
    device = torch.device(order.device)
    sequences = prepared.split(definition.protocol.split)
    fix_allocator()
    if issubclass(cls, SequenceModel):
        load_optimizer()
    now = Again(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seqbench=machine["seqbench"],
        git_commit=machine["git_commit"],
    )
    model = _model(order, cls, sequences).to(device)
    with sharing(device) as shared:
        if "training" in order.again.parts:
            _keep(record, "training", _training_cost(model, sequences, order, emit), now)
        counted = model if isinstance(model, CountingModel) else None
        if counted is not None and "latency" in order.again.parts:
            counted.fit(sequences)
        del model  # so that there is more room for measuring
        if "latency" in order.again.parts:
            build = builder(cls, sequences, definition)
            cost, store_samples = latency_cost(order, machine, lambda length: counted or build(length), emit)
            if _keep(record, "latency", cost, now):
                store_samples()
    record.cost["sharing"] = shared
    write_record(order.results, record)
    return record


def _check_machine(record: Record, here: Environment) -> None:
    for name in MACHINE:
        if record.environment.get(name) != here.get(name):
            raise SeqbenchError(
                f"{record.definition.label()} was run with {name.replace('_', ' ')} {record.environment.get(name)}; "
                f"here it is {here.get(name)}.",
                hint="Measure it there, or run it here with `seqbench run --force`.",
            )


def _keep(record: Record, part: Part, cost: Cost, now: Again) -> bool:
    """Put a part that was measured again into a record, unless it is of the same points, and noisier than before."""
    same = part == "training" or cost["latency_grid"] == record.cost.get("latency_grid")
    if same and noise(cost, part) > noise(record.cost, part):
        return False
    if part == "latency":
        record.cost.pop("latency_from", None)
    record.cost |= cost
    record.cost["again"] = record.cost.get("again", {}) | {part: now}
    return True


def _model(order: Order, cls: type[Model], sequences: Sequences) -> Model:
    """Return the model with its stored weights; with initial ones if none were kept, and without where it counts."""
    folder = order.definition.folder(order.results)
    if issubclass(cls, SequenceModel) and (folder / WEIGHTS).is_file():
        model, _ = load_weights(folder, model=order.model if external.is_file(order.model) else None)
        return model
    return builder(cls, sequences, order.definition)(order.definition.protocol.max_len)


def _training_cost(model: Model, sequences: Sequences, order: Order, emit: Listener) -> Cost:
    """Return what a few epochs of training cost, or all of it where the model counts."""
    assert order.again is not None
    definition, watch = order.definition, Watch(torch.device(order.device))
    emit(Phase("measuring training"))
    if isinstance(model, CountingModel):
        model.fit(sequences)
        conditions = watch.conditions()
        return Cost(fit_seconds=conditions["seconds"], conditions=conditions, fit_conditions=conditions)
    assert isinstance(model, SequenceModel)
    assert definition.training is not None
    epochs = min(order.again.epochs, definition.training["epochs"])
    # An epoch is to be timed, not chosen: one user is validated, once.
    training = dataclasses.replace(
        TrainingConfig(**definition.training), epochs=epochs, validate_users=1, validate_every=epochs
    )
    trainer = Trainer(
        model, sequences, training=training, protocol=definition.protocol, seed=definition.seed, emit=emit
    )
    state = trainer.run()
    return costs_of_epochs(state, trainer.device) | Cost(conditions=watch.conditions())
