"""Trained models on disk: safetensors with what is needed to rebuild the model, and no code.

Loading believes nothing: the content must have the digest that was stored with it, be of the cell and the data set that
the record is of, and hold the tensors, of the shapes, that the model has.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seqbench import tensor_file
from seqbench.errors import SeqbenchError, UsageError
from seqbench.models import find_model
from seqbench.models.base import Model
from seqbench.results.records import Definition, Record, read_record
from seqbench.results.store import RECORD, WEIGHTS
from seqbench.typed import build

HINT = "Run the cell again with --force."


@dataclass(frozen=True)
class Blueprint:
    """What a model is rebuilt from."""

    model: str  # its name
    reference: str  # where its class was loaded from
    source: str | None  # of a class that is not part of seqbench: hash of its file, or package and version
    config: dict[str, Any]
    items: int  # of the catalogue, without padding
    max_len: int
    dataset: str
    fingerprint: str  # of the prepared interactions
    key: str  # of the cell


def blueprint(definition: Definition, reference: str, items: int) -> Blueprint:
    """Return the blueprint of a cell's model."""
    return Blueprint(
        model=definition.model,
        reference=reference,
        source=definition.source,
        config=definition.config,
        items=items,
        max_len=definition.protocol.max_len,
        dataset=definition.dataset,
        fingerprint=definition.fingerprint,
        key=definition.key,
    )


def save_weights(path: Path, model: Model, plan: Blueprint) -> None:
    """Write a model's parameters and buffers, atomically.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    tensor_file.write(path, model.state_dict(), json.dumps(asdict(plan)))


def load_weights(cell: Path, *, model: str | None = None, device: str = "cpu") -> tuple[Model, Record]:
    """Rebuild the trained model of a finished cell.

    Args:
        cell: its folder, with record.json and weights.safetensors.
        model: where its class is, if that is a file: reading weights executes no file that they name. The code must be
            what it was.
        device: where to put it.

    Returns:
        The model, in evaluation mode, and the cell's record.

    Raises:
        SeqbenchError: the cell is not finished, was run without keeping weights, or a file of it is damaged or is not
            the one that the record is of.
        UsageError: the class cannot be found, or has changed since.
    """
    record = read_record(cell / RECORD)
    path = cell / WEIGHTS
    if not record.finished:
        raise SeqbenchError(f"{cell} is not finished.", hint="Repeat `seqbench run` with the same options.")
    if not path.is_file():
        raise SeqbenchError(f"{cell} has no {WEIGHTS}.", hint="Run it again with --force, and without --no-weights.")
    tensors, text = tensor_file.read(path, torch.device("cpu"), HINT)
    try:
        plan = build(Blueprint, json.loads(text), "blueprint")
        expected = blueprint(record.definition, plan.reference, record.dataset.get("items", -1))
        if plan != expected:
            field = next(name for name, value in asdict(plan).items() if value != asdict(expected)[name])
            raise ValueError(f"its {field} is not that of {RECORD}")
        cls = _class(plan, model)
        rebuilt = _rebuilt(cls, plan, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        rebuilt.load_state_dict(tensors)
    except (ValueError, RuntimeError, RecursionError) as error:
        raise tensor_file.damaged(path, error, HINT) from error
    return rebuilt.to(torch.device(device)).eval(), record


def _rebuilt(cls: type[Model], plan: Blueprint, found: dict[str, tuple[int, ...]]) -> Model:
    """Make the model of a blueprint, once it is certain that it has tensors of the shapes that were found.

    Raises:
        ValueError: it has others; no memory was taken for them.
    """
    config = build(cls.Config, plan.config, "config")
    with torch.device("meta"):
        skeleton = cls(plan.items, plan.max_len, config).state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in skeleton.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name) and not (name in cls.ragged_buffers and name in found):
            raise ValueError(f"{name} is {found.get(name, 'missing')} instead of {wanted.get(name, 'absent')}")
    return cls(plan.items, plan.max_len, config)


def _class(plan: Blueprint, given: str | None) -> type[Model]:
    """Return the model's class: ours, an installed package's, or that of the file which the caller names."""
    from seqbench.models import external

    reference = given or plan.model
    if given is None and external.is_file(plan.reference):
        raise UsageError(
            f"{plan.model} is a class in a file of yours, which is not executed unless you name it.",
            hint=f'Pass model="{plan.reference}".',
        )
    entry = find_model(reference)
    if entry.name != plan.model:
        raise UsageError(f"These are weights of {plan.model}, not of {reference}.", hint="Name the model's own file.")
    if entry.source != plan.source:
        raise UsageError(
            f"The code of {plan.model} is not what it was when it was trained ({plan.source}).",
            hint="Use the file or package of that time, or train it again.",
        )
    return entry.cls
