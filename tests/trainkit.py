"""What the tests of training share: a small trainer over always the same data, model and seed."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqbench.data.sequences import Sequences, split_sequences
from seqbench.models import load_model
from seqbench.models.base import SequenceModel, TrainingConfig
from seqbench.protocol import Protocol
from seqbench.training.loop import Trainer, derived_seed

ITEMS, MAX_LEN = 20, 6


def random_sequences(users: int = 30, seed: int = 0) -> Sequences:
    """Return histories of 4 to 13 random items, the last two held out."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, ITEMS + 1, rng.integers(4, 14)) for _ in range(users)]
    ids = np.repeat(np.arange(1, users + 1), [len(history) for history in histories]).astype(np.int32)
    flat = np.concatenate([*histories]).astype(np.int32)
    flat[0] = ITEMS
    return split_sequences(ids, flat, np.arange(len(flat)), split="leave-one-out")


def small_model(name: str, **changes: Any) -> SequenceModel:
    """Return one layer of width 8, always with the same weights; `changes` are fields of the model's config."""
    cls = load_model(name)
    torch.manual_seed(derived_seed(0, 0))
    model = cls(ITEMS, MAX_LEN, dataclasses.replace(cls.Config(), hidden_size=8, layers=1, **changes))
    assert isinstance(model, SequenceModel)
    return model


def make_trainer(
    name: str = "lrurec",
    *,
    checkpoint: Path | None = None,
    protocol: Protocol = Protocol(max_len=MAX_LEN),  # noqa: B008  # frozen
    watched: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> Trainer:
    """Return a trainer.

    Args:
        watched: the trainer's `emit`, `clock` and `peak_memory`, if a test looks at them.
        config: fields of the model's config.
        changes: fields of the TrainingConfig.
    """
    model = small_model(name, **(config or {}))
    assert model.training_defaults is not None
    objective = changes.setdefault("objective", model.training_defaults.objective)
    batch_size = 8 if objective == "all-positions" else 8 * MAX_LEN  # as many targets either way
    defaults = {"epochs": 4, "patience": 50, "batch_size": batch_size, "learning_rate": 3e-3, "clip_norm": 5.0}
    return Trainer(
        model,
        random_sequences(),
        training=TrainingConfig(**(defaults | changes)),
        protocol=protocol,
        checkpoint=checkpoint,
        **({"peak_memory": lambda: 7} | (watched or {})),
    )
