"""What training and evaluation ask of every model before they believe it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seqbench.errors import SeqbenchError
from seqbench.models.times import given, synthetic_times

if TYPE_CHECKING:
    from seqbench.models.base import Model, ModelConfig, SequenceModel, TrainingConfig


def check_shape(model: "Model", method: str, found: object, expected: tuple[int, ...]) -> None:
    """Raise SeqbenchError unless what a method returned is a tensor of the expected shape."""
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if shape != expected:
        raise SeqbenchError(
            f"{type(model).__name__}.{method} must return a tensor of shape {expected} here, not {shape}.",
            hint="What it takes and returns is in seqbench/models/base.py.",
        )


def check_objective(config: "ModelConfig", training: "TrainingConfig") -> None:
    """Raise ValueError if the objective would show a model the items that it is to predict."""
    from seqbench.training.objectives import OBJECTIVES

    if OBJECTIVES[training.objective].needs_causality and not config.causal:
        raise ValueError(
            f"objective must be prefix, not '{training.objective}': the model is not causal, so that a position sees "
            "the items after it, its own target among them"
        )


@torch.no_grad()
def check_causality(model: "SequenceModel") -> None:
    """Raise SeqbenchError if a position sees what is after it, so that it must not be trained at all positions.

    What the config declares is not enough where the model is not ours, and so not tested.
    """
    T = min(model.max_len, 8)
    if T < 2 or model.items < 2:
        return
    training, device = model.training, model.item_weights().device
    items = torch.arange(T, device=device).remainder(model.items).add(1).unsqueeze(0)
    changed = items.clone()
    changed[:, -1] = changed[:, -1] % model.items + 1
    lengths = torch.tensor([T], device=device)
    model.eval()
    times = synthetic_times(model, items)
    later = times and times.later(slice(None), -1)
    states = [model(*inputs) for inputs in ((items, lengths, *given(times)), (changed, lengths, *given(later)))]
    model.train(training)
    for found in states:
        check_shape(model, "forward", found, (1, T, model.item_weights().shape[1]))
    before, after = (found[:, :-1] for found in states)
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise SeqbenchError(
            f"{type(model).__name__} says that it is causal, but a later item changes its states at earlier positions, "
            "or its time does.",
            hint="Let `causal` of its Config be False, and train it on prefixes (objective=prefix).",
        )
