"""One cell from definition to record: load, fit, evaluate, measure, record."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import torch

from seqbench import environment
from seqbench.data.prepared import PreparedDataset
from seqbench.data.sequences import Sequences
from seqbench.device import PeakMemory, kind
from seqbench.distributed import ALONE, Group
from seqbench.evaluation.ranking import rank
from seqbench.evaluation.ranks import Ranks
from seqbench.events import Begun, Event, Listener, Phase, following
from seqbench.execution.orders import Order
from seqbench.files import replacing
from seqbench.inference.items import ITEM_IDS, ItemIds
from seqbench.measuring.latency import latency
from seqbench.measuring.process import fix_allocator, load_optimizer
from seqbench.measuring.quiet import Watch
from seqbench.measuring.reuse import measured_before, plain
from seqbench.measuring.sharing import sharing
from seqbench.measuring.size import size
from seqbench.models.base import CountingModel, Model, SequenceModel, TrainingConfig
from seqbench.ops import backends
from seqbench.results import CHECKPOINT, RANKS, SAMPLES, TOP, WEIGHTS, Definition, Record, write_record
from seqbench.results.facts import dataset_facts
from seqbench.results.records import Cost, DatasetFacts, Environment, Training
from seqbench.results.store import trial_of
from seqbench.results.weights import blueprint, save_weights
from seqbench.settings import changes
from seqbench.training.loop import Trainer, derived_seed
from seqbench.training.state import TrainingState

# The best items of each test user that are kept: for what a list is worth besides its target.
TOP_ITEMS = 20


def run_cell(
    order: Order, cls: type[Model], prepared: PreparedDataset, emit: Listener, *, group: Group = ALONE
) -> Record:
    """Run one cell, and store its record, weights, ranks, best items and samples.

    Args:
        cls: the class of the definition's model.
        emit: called with everything that happens.
        group: processes that train and rank together, of which this is the first; the others `join_cell`.

    Raises:
        SeqbenchError: what failed, in words; the checkpoint of the last finished epoch stays.
    """
    began = time.perf_counter()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    definition, folder = order.definition, order.definition.folder(order.results)
    machine, changed = environment.describe(order.device), changes(cls, definition.config, definition.training)
    emit(Begun(machine, changed))

    device = torch.device(order.device)
    sequences = prepared.split(definition.protocol.split)
    fix_allocator()
    if issubclass(cls, SequenceModel):
        load_optimizer()  # before the mark that memory is measured from
    build = builder(cls, sequences, definition)
    peak = kind(device).peak_memory(device)
    model = build(definition.protocol.max_len).to(device)

    with sharing(device) as shared:
        watch = Watch(device, group)
        fitted = fit(model, sequences, order, device, peak, emit, group)
        fitted.cost["conditions"] = fitted.cost["fit_conditions"] = watch.conditions()
        valid, test = _evaluate(model, sequences, definition, emit, group)
        fitted.cost.setdefault("peak_memory_bytes", peak())
        held = kind(device).process_memory(device)
        fitted.cost |= Cost(reserved_memory_bytes=held.reserved, process_memory_bytes=held.process)
        identified = DatasetFacts()
        if order.keep_weights:
            save_weights(folder / WEIGHTS, model, blueprint(definition, order.model, sequences.items))
            ids = ItemIds.of(prepared)
            ids.write(folder / ITEM_IDS)
            identified["item_ids"] = ids.digest()
        counted = model if isinstance(model, CountingModel) else None
        del model  # so that there is more room for measuring
        measured, store_samples = latency_cost(order, machine, lambda length: counted or build(length), emit)
    if counted is None:
        emit(Phase("counting operations"))
        measured.update(cast(Cost, size(build, definition.protocol.max_len)))
    store_samples()
    test.write(folder / RANKS)
    test.write_top(folder / TOP)
    record = Record(
        definition=definition,
        status="finished",
        started=started,
        seconds=fitted.earlier_seconds + time.perf_counter() - began,
        environment=machine | Environment(operators=backends.used()),
        dataset=dataset_facts(prepared, sequences, definition.protocol) | identified,
        accuracy=test.metrics(),
        validation=valid.metrics(),
        training=fitted.training,
        cost=fitted.cost | measured | Cost(sharing=shared),
        changes=changed,
        uses_times=cls.Config(**definition.config).uses_times,
        trial=trial_of(order.results, definition),
    )
    write_record(order.results, record)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return record


def join_cell(order: Order, cls: type[Model], prepared: PreparedDataset, group: Group) -> None:
    """Do the share of a process other than the first in `run_cell`: it trains and ranks, and stores nothing.

    Raises:
        SeqbenchError: what failed, in words.
    """
    definition, device = order.definition, torch.device(order.device)
    sequences = prepared.split(definition.protocol.split)
    fix_allocator()
    load_optimizer()
    peak = kind(device).peak_memory(device)
    model = builder(cls, sequences, definition)(definition.protocol.max_len).to(device)
    with sharing(device):
        fit(model, sequences, order, device, peak, _ignore, group)
        _evaluate(model, sequences, definition, _ignore, group)


def _ignore(event: Event) -> None:
    """Tell nobody: the first process of a group is the one that shows."""


def _evaluate(
    model: Model, sequences: Sequences, definition: Definition, emit: Listener, group: Group
) -> tuple[Ranks, Ranks]:
    """Return the ranks of the validation and of the test targets."""
    emit(Phase("evaluating"))
    progress = following("evaluating", emit)
    protocol = definition.protocol
    valid = rank(model, sequences, sequences.valid(), protocol, progress=progress, group=group)
    test = rank(model, sequences, sequences.test(), protocol, top=TOP_ITEMS, progress=progress, group=group)
    return valid, test


@dataclass
class Fitted:
    """What fitting a model gave besides the model."""

    cost: Cost
    training: Training | None = None
    earlier_seconds: float = 0.0  # of the processes before this one
    complete: bool = True  # whether training was not given up


def latency_cost(
    order: Order, machine: Environment, build: Callable[[int], Model], emit: Listener
) -> tuple[Cost, Callable[[], None]]:
    """Return latency as the record's cost has it, measured here or of another seed, and what stores its samples.

    Args:
        machine: where this is.
        build: makes a model that can take histories of a length; weights do not matter for time.
    """
    grid, definition = order.latency, order.definition
    samples = definition.folder(order.results) / SAMPLES
    earlier = None
    if not order.force and definition.training is not None:
        earlier = measured_before(order.results, definition, machine, grid)
    if earlier is None:
        if grid.lengths:
            emit(Phase("measuring latency"))
        timings = latency(build, torch.device(order.device), grid=grid)
        cost = Cost(latency=timings.points, latency_skipped=timings.skipped, latency_grid=plain(grid))
        return cost, lambda: timings.write_samples(samples)
    source = earlier.definition
    cost = Cost(
        latency=earlier.cost["latency"],
        latency_skipped=earlier.cost["latency_skipped"],
        latency_from=earlier.cost.get("latency_from", source.key),
        latency_grid=plain(grid),
    )

    def copy_samples() -> None:
        with replacing(samples) as temporary:
            shutil.copyfile(source.folder(order.results) / SAMPLES, temporary)

    return cost, copy_samples


def builder(cls: type[Model], sequences: Sequences, definition: Definition) -> Callable[[int], Model]:
    """Return a function from a maximum length to a model with its initial weights."""
    config = cls.Config(**definition.config)

    def build(max_len: int) -> Model:
        torch.manual_seed(derived_seed(definition.seed, 0))
        return cls(sequences.items, max_len, config)

    return build


def fit(
    model: Model,
    sequences: Sequences,
    order: Order,
    device: torch.device,
    peak: PeakMemory,
    emit: Listener,
    group: Group = ALONE,
) -> Fitted:
    """Train the model by gradient, or count; it has its best weights afterwards."""
    cost = Cost(parameters=sum(parameter.numel() for parameter in model.parameters()))
    if isinstance(model, CountingModel):
        began = time.perf_counter()
        model.fit(sequences)
        return Fitted(cost | Cost(fit_seconds=time.perf_counter() - began))
    assert isinstance(model, SequenceModel)
    definition = order.definition
    assert definition.training is not None
    limits = TrainingConfig(**definition.training)
    trainer = Trainer(
        model,
        sequences,
        training=limits,
        protocol=definition.protocol,
        seed=definition.seed,
        checkpoint=definition.folder(order.results) / CHECKPOINT,
        emit=emit,
        peak_memory=peak,
        until=order.until,
        bars=order.attempt.bars if order.attempt else (),
        group=group,
    )
    earlier = trainer.resume()
    state = trainer.run()
    cost |= costs_of_epochs(state, device)
    cost["fit_seconds"] = sum(entry.train_seconds for entry in state.history)
    cost["peak_memory_bytes"] = max(state.peak_memory, peak())
    return Fitted(cost, state.summary(limits), earlier, trainer.complete)


def costs_of_epochs(state: TrainingState, device: torch.device) -> Cost:
    """Return rates, times and energy of epochs."""
    cost = state.throughput()
    if (seconds := cost["epoch_seconds"]) is not None and cost["epoch_joules"] is not None:
        cost["epoch_joules_coarse"] = seconds < kind(device).energy_period
    return cost
