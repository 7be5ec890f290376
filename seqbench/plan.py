"""From the words of a command line to the list of cells: which are finished, which are to be run."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqbench import console
from seqbench.data.catalog import GIVEN, SPLITS
from seqbench.data.prepared import PreparedDataset
from seqbench.errors import UsageError, unknown_name
from seqbench.models import MODELS, load_model
from seqbench.models.base import Model, TrainingConfig
from seqbench.ops.backends import resolve
from seqbench.results import CHECKPOINT, RECORD, Definition, Protocol, UnreadableRecord, read_record

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Cell:
    """One definition, and what the store holds of it."""

    definition: Definition
    state: str  # "finished", "resumable", "new", or "forced"


def parse_models(names: str | None) -> list[str]:
    """Comma-separated model names, checked, at least one; all registered models if None."""
    chosen = list(MODELS) if names is None else words(names)
    for name in chosen:
        if name not in MODELS:
            raise unknown_name("Model", name, MODELS, "seqbench list models")
    if not chosen:
        raise UsageError(f"--models names no model: '{names}'.", hint="See `seqbench list models`.")
    return chosen


def parse_seeds(text: str) -> list[int]:
    """Comma-separated non-negative integers."""
    try:
        seeds = [int(word) for word in words(text)]
    except ValueError:
        seeds = [-1]
    if not seeds or min(seeds) < 0:
        raise UsageError(f"--seeds takes numbers such as 0,1,2, not '{text}'.", hint="See `seqbench run --help`.")
    return list(dict.fromkeys(seeds))


def parse_overrides(settings: Sequence[str], models: Sequence[str]) -> dict[str, dict[str, str]]:
    """`model.field=value` words as model → field → text.

    Raises:
        UsageError: not of that form, or about a model that is not being run.
    """
    overrides: dict[str, dict[str, str]] = {name: {} for name in models}
    for setting in settings:
        target, equals, value = setting.partition("=")
        model, dot, field = target.strip().partition(".")
        if not equals or not dot or not field:
            raise UsageError(
                f"--set takes model.field=value, not '{setting}'.",
                hint="For example --set lrurec.dropout=0.5",
            )
        if model not in MODELS:
            raise unknown_name("Model", model, MODELS, "seqbench list models")
        if model not in overrides:
            raise UsageError(
                f"--set {setting}: {model} is not among the models of this run.", hint="Add it to --models."
            )
        overrides[model][field] = value.strip()
    return overrides


def configure(
    cls: type[Model], name: str, overrides: dict[str, str], epochs: int | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The model's config and training config as plain dicts: its defaults, changed by overrides and --epochs.

    Raises:
        UsageError: a field that the model does not have, or a value that does not fit it.
    """
    training = cls.training_defaults
    model_fields = {field.name for field in dataclasses.fields(cls.Config)}
    training_fields = {field.name for field in dataclasses.fields(TrainingConfig)} if training else set()
    for field in overrides:
        if field not in model_fields | training_fields:
            known = sorted(model_fields | training_fields)
            if not known:
                raise UsageError(f"{name} has nothing to set.", hint="Leave it out of --set.")
            raise unknown_name(f"Setting of {name}", field, known, f"seqbench list models {name}")
    try:
        config = _replace(cls.Config(), {f: v for f, v in overrides.items() if f in model_fields})
        if training is not None:
            training = _replace(training, {f: v for f, v in overrides.items() if f in training_fields})
            if epochs is not None:
                training = dataclasses.replace(training, epochs=epochs)
    except ValueError as error:
        raise UsageError(f"{name}: {error}.", hint=f"See `seqbench list models {name}`.") from None
    return dataclasses.asdict(config), None if training is None else dataclasses.asdict(training)


def define(
    prepared: PreparedDataset,
    models: Sequence[str],
    seeds: Sequence[int],
    *,
    protocol: Protocol,
    overrides: dict[str, dict[str, str]],
    epochs: int | None,
    device: str,
    backend: str,
) -> list[Definition]:
    """All cells of one data set, model by model. A model without anything random has one cell, of seed 0.

    Args:
        device: such as "cpu" or "cuda:1"; its kind is part of the definition, its number is not.
        backend: name of a backend of the operators, or "auto".
    """
    kind = device.partition(":")[0]
    definitions = []
    for name in models:
        cls = load_model(name)
        config, training = configure(cls, name, overrides.get(name, {}), epochs)
        definitions += [
            Definition(
                dataset=prepared.name,
                fingerprint=prepared.fingerprint,
                protocol=protocol,
                model=name,
                config=config,
                training=training,
                seed=seed,
                device=kind,
                backend=None if training is None else resolve("linear_cross_entropy", backend, kind).name,
            )
            for seed in (seeds if training is not None else [0])
        ]
    return definitions


def protocol(split: str, *, exclude_seen: bool, max_len: int) -> Protocol:
    """The protocol of a run.

    Raises:
        UsageError: no such split.
    """
    if split not in (*SPLITS, GIVEN):
        raise unknown_name("Split", split, (*SPLITS, GIVEN), "seqbench run --help")
    return Protocol(split=split, exclude_seen=exclude_seen, max_len=max_len)


def resolve_device(text: str) -> str:
    """The device that a word such as "auto", "cpu", "cuda" or "cuda:1" means here.

    Raises:
        UsageError: no such device on this machine.
    """
    import torch

    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if text == "auto":
        return available[1] if len(available) > 1 else "cpu"
    chosen = "cuda:0" if text == "cuda" else text
    if chosen not in available:
        raise UsageError(
            f"Device '{text}' is not available; this machine has {', '.join(available)}.",
            hint="See `seqbench env`.",
        )
    return chosen


def look_up(definition: Definition, results: Path, *, force: bool = False) -> Cell:
    """What the store already holds of a cell; with `force`, it is to be run anew whatever that is.

    Raises:
        UnreadableRecord: a newer seqbench has finished it; running it again would overwrite that.
    """
    folder = definition.folder(results)
    if force:
        return Cell(definition, "forced")
    if (folder / RECORD).exists():
        try:
            if read_record(folder / RECORD).finished:
                return Cell(definition, "finished")
        except UnreadableRecord as error:
            if error.newer:
                raise
            console.warn(f"{error.message} It is measured again.")
    return Cell(definition, "resumable" if (folder / CHECKPOINT).exists() else "new")


def plan_table(cells: Sequence[Cell], results: Path) -> "Table":
    """What a run would do, one line per cell."""
    from rich.table import Table

    words = {
        "finished": "finished, skipped",
        "resumable": "to be resumed",
        "new": "to be run",
        "forced": "to be run again",
    }
    table = Table(title=f"Plan for {results}", title_justify="left", box=None, pad_edge=False)
    for title in ("Data set", "Model", "Seed", "Device", "Backend", "Key", "State"):
        table.add_column(title)
    for cell in cells:
        d = cell.definition
        table.add_row(d.dataset, d.model, str(d.seed), d.device, d.backend or "", d.key[:7], words[cell.state])
    return table


def _replace(config: Any, changes: dict[str, str]) -> Any:
    kinds = {field.name: type(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: _parse(kinds[name], name, text) for name, text in changes.items()})


def _parse(kind: type, field: str, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{field} must be true or false, not '{text}'")
        return text.lower() == "true"
    try:
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError
        return value
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{field} must be {what}, not '{text}'") from None


def words(text: str) -> list[str]:
    """Comma-separated words, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
