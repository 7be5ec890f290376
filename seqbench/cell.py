"""One cell from definition to record: load, train, evaluate, measure, store. Runs in a process of its own."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from seqbench import environment
from seqbench.data.prepared import PreparedDataset
from seqbench.data.sequences import Sequences
from seqbench.evaluation.ranking import rank
from seqbench.evaluation.ranks import Ranks
from seqbench.measure import PeakMemory, latency
from seqbench.models.base import CountingModel, Model, SequenceModel, TrainingConfig
from seqbench.ops import backends
from seqbench.plan import changes
from seqbench.protocol import Protocol
from seqbench.results import CHECKPOINT, RANKS, SAMPLES, Definition, Record, write_record
from seqbench.training.loop import Trainer, derived_seed


def run_cell(
    definition: Definition,
    cls: type[Model],
    prepared: PreparedDataset,
    results: Path,
    device: str,
    emit: Callable[..., None],
) -> Record:
    """Run one cell and store its record, ranks and samples.

    Args:
        cls: the class of the definition's model.
        device: where to run, such as "cpu" or "cuda:1".
        emit: called with an event's name and its fields as things happen.

    Raises:
        SeqbenchError: what failed, in words; the checkpoint of the last finished epoch stays.
    """
    began = time.perf_counter()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    machine = environment.describe(device)
    changed = changes(cls, definition)
    emit("begun", environment=machine, changes=changed)
    target = torch.device(device)
    protocol = definition.protocol
    sequences = prepared.split(protocol.split)
    config = cls.Config(**definition.config)

    def build(max_len: int) -> Model:
        torch.manual_seed(derived_seed(definition.seed, 0))
        return cls(sequences.items, max_len, config)

    peak = PeakMemory(target)
    model = build(protocol.max_len).to(target)
    folder = definition.folder(results)
    checkpoint = folder / CHECKPOINT
    training: dict[str, Any] | None = None
    earlier = 0.0  # seconds of the processes before this one
    cost: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    if isinstance(model, SequenceModel):
        assert definition.training is not None
        limits = TrainingConfig(**definition.training)
        trainer = Trainer(
            model,
            sequences,
            training=limits,
            protocol=protocol,
            seed=definition.seed,
            checkpoint=checkpoint,
            emit=emit,
            peak_memory=peak,
        )
        earlier = trainer.resume()
        state = trainer.run()
        del trainer  # with what only training needs, so that there is more room for measuring
        training = state.summary(limits)
        cost |= state.throughput()
        cost["fit_seconds"] = sum(entry.train_seconds for entry in state.history)
        cost["peak_memory_bytes"] = max(state.peak_memory, peak())
    else:
        assert isinstance(model, CountingModel)
        fitting = time.perf_counter()
        model.fit(sequences)
        cost["fit_seconds"] = time.perf_counter() - fitting

    emit("phase", name="evaluating")
    ranks = {
        name: rank(model, sequences, examples, protocol)
        for name, examples in (("valid", sequences.valid()), ("test", sequences.test()))
    }
    cost.setdefault("peak_memory_bytes", peak())

    emit("phase", name="measuring latency")
    fitted = model if isinstance(model, CountingModel) else None
    del model
    timings = latency(lambda length: fitted or build(length), target)
    cost["latency"], cost["latency_skipped"] = timings.points, timings.skipped

    record = Record(
        definition=definition,
        status="finished",
        started=started,
        seconds=earlier + time.perf_counter() - began,
        environment=machine | {"operators": backends.used()},
        dataset=describe_dataset(prepared, sequences, ranks["test"], protocol),
        accuracy=ranks["test"].metrics(),
        validation=ranks["valid"].metrics(),
        training=training,
        cost=cost,
        changes=changed,
    )
    ranks["test"].write(folder / RANKS)
    timings.write_samples(folder / SAMPLES)
    write_record(results, record)
    checkpoint.unlink(missing_ok=True)
    return record


def describe_dataset(
    prepared: PreparedDataset, sequences: Sequences, test: Ranks, protocol: Protocol
) -> dict[str, Any]:
    """The record's `dataset` section."""
    meta = prepared.meta
    return {
        "title": meta["title"],
        "users": prepared.users,
        "items": prepared.items,
        "interactions": prepared.interactions,
        "filters": prepared.filters.words(),
        "evaluated_users": len(test.users),
        "training_pairs": len(sequences.training_pairs()[0]),
        "count_mismatch": meta["count_mismatch"],
        "ceiling": meta.get("ceiling") if (protocol.split, protocol.removed) == ("leave-one-out", "history") else None,
    }
