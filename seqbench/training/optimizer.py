"""The optimizers of a model: AdamW, with weight decay on what the model does not exempt."""

from typing import Any

import torch
from torch import nn

from seqbench.models.base import SequenceModel, TrainingConfig
from seqbench.training.sparse import ItemTable, LazyAdamW


def make_optimizers(
    model: SequenceModel, training: TrainingConfig, table: ItemTable | None = None
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of all of a model's parameters; `no_weight_decay` names those that do not decay.

    Args:
        table: what is updated row by row, and by an optimizer of its own.
    """
    sparse = {id(parameter) for parameter in table.parameters} if table else set()
    named = list(model.named_parameters())
    dense = _groups(model, [(name, each) for name, each in named if id(each) not in sparse], training)
    betas = (0.9, training.beta2)
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=training.learning_rate, betas=betas, fused=True)]
    if table:
        rows = _groups(model, [(name, each) for name, each in named if id(each) in sparse], training)
        made.append(LazyAdamW(rows, lr=training.learning_rate, betas=betas))
    return made


def _groups(
    model: SequenceModel, named: list[tuple[str, nn.Parameter]], training: TrainingConfig
) -> list[dict[str, Any]]:
    exempt = {name for name, _ in named if any(part in name for part in model.no_weight_decay)}
    return [
        {"params": [each for name, each in named if name not in exempt], "weight_decay": training.weight_decay},
        {"params": [each for name, each in named if name in exempt], "weight_decay": 0.0},
    ]
