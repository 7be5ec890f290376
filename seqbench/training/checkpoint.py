"""Checkpoints: all that a training needs to go on after an epoch as if it had never been interrupted."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from seqbench import tensor_file
from seqbench.models.base import SequenceModel
from seqbench.training.state import TrainingState

HINT = "Delete it, or repeat the command with --force to train this cell from the start."
STATE_LIMIT = 1 << 26  # characters of JSON; an epoch takes about 300

Weights = dict[str, Tensor]


def save(
    path: Path, model: SequenceModel, best: Weights, optimizers: Sequence[torch.optim.Optimizer], state: TrainingState
) -> None:
    """Store a checkpoint atomically.

    Args:
        best: the weights of the best epoch.

    Raises:
        StorageError: it cannot be written; the one before it stays.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for number, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{name}": value for name, value in entries.items()}
    tensor_file.write(path, tensors, json.dumps(asdict(state)))


def load(
    path: Path, model: SequenceModel, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[Weights, TrainingState]:
    """Put a checkpoint into the model and its optimizers; return the weights of the best epoch and the state.

    Raises:
        DamagedFile: it is not what was stored, or not that of such a training.
    """
    tensors, text = tensor_file.read(path, model.item_weights().device, HINT)
    try:
        if len(text) > STATE_LIMIT:
            raise ValueError(f"its state has {len(text):,} characters")
        state = TrainingState.from_fields(json.loads(text))
        best = _below("best/", tensors)
        weights = _below("model/", tensors)
        moments = _below("optimizer/", tensors)
        if len(best) + len(weights) + len(moments) < len(tensors):
            raise ValueError("it holds tensors that no training has")
        for given in (best, weights):
            _check(given, model.state_dict())
        model.load_state_dict(weights)
        restored = [_restore(each, _below(f"{number}/", moments)) for number, each in enumerate(optimizers)]
        if sum(restored) < len(moments):
            raise ValueError("it holds the state of another optimizer")
    except (RuntimeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise tensor_file.damaged(path, error, HINT) from error
    return best, state


def _restore(optimizer: torch.optim.Optimizer, moments: Weights) -> int:
    """Give an optimizer of the Adam family its state back; return how many tensors that took."""
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        entries = _below(f"{index}/", moments)
        if not entries:
            continue  # a parameter that no loss has reached yet
        shapes = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        _check(entries, shapes)
        content["state"][index] = entries
    optimizer.load_state_dict(content)
    return sum(map(len, content["state"].values()))


def _check(found: Weights, expected: dict[str, Tensor]) -> None:
    """Raise ValueError unless tensors have the names, shapes and types that they should, and finite values."""
    if found.keys() != expected.keys():
        raise ValueError(f"tensors are missing or unknown: {', '.join(sorted(found.keys() ^ expected.keys())[:3])}")
    for name, tensor in found.items():
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} is not finite")


def _below(prefix: str, tensors: Weights) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
