"""From the words of a command line to the list of cells: which are finished, which are to be run."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqbench import console
from seqbench.data.prepared import PreparedDataset
from seqbench.errors import UsageError, unknown_name
from seqbench.models import load_model, model_name, model_names, model_source
from seqbench.models.base import Model, TrainingConfig
from seqbench.models.checks import check_objective
from seqbench.ops.backends import resolve
from seqbench.protocol import Protocol
from seqbench.results import CHECKPOINT, RECORD, Definition, UnreadableRecord, read_record

if TYPE_CHECKING:
    from rich.table import Table


PRESETS = ("paper",)


@dataclass(frozen=True)
class Cell:
    """One definition, and what the store holds of it."""

    definition: Definition
    state: str  # "finished", "resumable", "new", or "forced"


def parse_models(text: str | None) -> dict[str, str]:
    """Comma-separated references as name → reference, each loaded once; all registered models if None.

    Raises:
        UsageError: none at all, one that cannot be loaded, or two of the same name.
    """
    chosen: dict[str, str] = {}
    for reference in model_names() if text is None else words(text):
        try:
            load_model(reference)
        except UsageError as error:
            if text is not None:
                raise
            console.warn(f"{error.message} It is left out.")  # of another package, and not asked for
            continue
        name = model_name(reference)
        if name in chosen:
            raise UsageError(
                f"Two models are called {name}: {chosen[name]} and {reference}.", hint="Rename one of the classes."
            )
        chosen[name] = reference
    if not chosen:
        raise UsageError(f"--models names no model: '{text}'.", hint="See `seqbench list models`.")
    return chosen


def parse_datasets(text: str | None) -> list[str] | None:
    """Comma-separated names, each once; None for all that are prepared.

    Raises:
        UsageError: none at all.
    """
    names = None if text is None else words(text)
    if names == []:
        raise UsageError(f"--datasets names no data set: '{text}'.", hint="See `seqbench list datasets`.")
    return names


def parse_seeds(text: str) -> list[int]:
    """Comma-separated non-negative integers."""
    try:
        seeds = [int(word) for word in words(text)]
    except ValueError:
        seeds = [-1]
    if not seeds or min(seeds) < 0:
        raise UsageError(f"--seeds takes numbers such as 0,1,2, not '{text}'.", hint="See `seqbench run --help`.")
    return list(dict.fromkeys(seeds))


def parse_overrides(settings: Sequence[str], models: Collection[str]) -> dict[str, dict[str, str]]:
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
        if model not in overrides:
            registered = model_names()
            if model not in registered:
                raise unknown_name("Model", model, [*models, *registered], "seqbench list models")
            raise UsageError(
                f"--set {setting}: {model} is not among the models of this run.", hint="Add it to --models."
            )
        overrides[model][field] = value.strip()
    return overrides


def configure(
    cls: type[Model],
    reference: str,
    overrides: dict[str, str],
    epochs: int | None,
    preset: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The model's config and training config as plain dicts.

    They are its defaults, changed by the preset, then by the overrides (as text), then by --epochs.

    Args:
        reference: what the class was loaded from.

    Raises:
        UsageError: a field that the model does not have, or a value that does not fit it.
    """
    name = model_name(reference)
    training = cls.training_defaults
    model_fields = {field.name for field in dataclasses.fields(cls.Config)}
    training_fields = {field.name for field in dataclasses.fields(TrainingConfig)} if training else set()
    for field in overrides:
        if field not in model_fields | training_fields:
            known = sorted(model_fields | training_fields)
            if not known:
                raise UsageError(f"{name} has nothing to set.", hint="Leave it out of --set.")
            raise unknown_name(f"Setting of {name}", field, known, f"seqbench list models {reference}")
    preset = preset or {}

    def changed(defaults: Any, fields: set[str]) -> Any:
        tuned = dataclasses.replace(defaults, **{f: v for f, v in preset.items() if f in fields})
        return _replace(tuned, {f: v for f, v in overrides.items() if f in fields})

    try:
        config = changed(cls.Config(), model_fields)
        if training is not None:
            training = changed(training, training_fields)
            if epochs is not None:
                training = dataclasses.replace(training, epochs=epochs)
            check_objective(config, training)
    except ValueError as error:
        raise UsageError(f"{name}: {error}.", hint=f"See `seqbench list models {reference}`.") from None
    return dataclasses.asdict(config), None if training is None else dataclasses.asdict(training)


def changes(cls: type[Model], definition: Definition) -> dict[str, Any]:
    """What of a definition's `config` and `training` is not the model's default, in the same two sections."""
    defaults = {"config": dataclasses.asdict(cls.Config())}
    if cls.training_defaults is not None:
        defaults["training"] = dataclasses.asdict(cls.training_defaults)
    chosen = {"config": definition.config, "training": definition.training or {}}
    return {
        section: {name: value for name, value in chosen[section].items() if value != fields.get(name)}
        for section, fields in defaults.items()
    }


def define(
    prepared: PreparedDataset,
    models: Mapping[str, str],
    seeds: Sequence[int],
    *,
    protocol: Protocol,
    preset: str | None,
    overrides: dict[str, dict[str, str]],
    epochs: int | None,
    device: str,
    backend: str,
) -> list[Definition]:
    """All cells of one data set, model by model. A model without anything random has one cell, of seed 0.

    Args:
        models: name → reference.
        preset: "paper" for the values that a model's paper gives for this data set, or None for its defaults.
        device: such as "cpu" or "cuda:1"; its kind is part of the definition, its number is not.
        backend: name of a backend of the operators, or "auto".
    """
    if preset not in (None, *PRESETS):
        raise unknown_name("Preset", str(preset), PRESETS, "seqbench run --help")
    kind = device.partition(":")[0]
    definitions = []
    for name, reference in models.items():
        cls = load_model(reference)
        tuned = cls.presets.get(prepared.name) if preset else None
        if preset and cls.training_defaults and tuned is None:
            console.note(f"The paper of {name} gives no values for {prepared.name}; its defaults are used there.")
        config, training = configure(cls, reference, overrides.get(name, {}), epochs, tuned)
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
                backend=None if training is None else resolve("linear_scan", backend, kind).name,
                source=model_source(reference),
            )
            for seed in (seeds if training is not None else [0])
        ]
    return definitions


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
    if kind is str:
        return text
    if kind not in (int, float):
        raise ValueError(f"{field} cannot be set on the command line: its default is no number, word, true or false")
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
