"""The optimizer of a model: AdamW, with weight decay on what the model does not exempt."""

import torch
from torch import Tensor

from seqbench.models.base import SequenceModel, TrainingConfig


def make_optimizer(model: SequenceModel, training: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of all of a model's parameters; `no_weight_decay` names those that do not decay."""
    decayed: list[Tensor] = []
    exempt: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (exempt if any(part in name for part in model.no_weight_decay) else decayed).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": training.weight_decay},
            {"params": exempt, "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        fused=True,
    )
