"""Settings of a model: its defaults, what a preset and the user change of them, and what of that is worth naming."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from seqbench.errors import UsageError, unknown_name
from seqbench.models import ModelEntry, model_names
from seqbench.models.base import Model, TrainingConfig
from seqbench.models.checks import check_objective
from seqbench.results.records import Changes
from seqbench.typed import build

PRESETS = ("paper",)

Overrides = Mapping[str, Any]  # field → value, or text that is read as the field's type


def setting_names(cls: type[Model]) -> list[str]:
    """Return the names of all fields that can be set, those of the model first."""
    configs = [cls.Config, *([TrainingConfig] if cls.training_defaults is not None else [])]
    return [field.name for config in configs for field in dataclasses.fields(config)]


def configure(
    model: ModelEntry, overrides: Overrides, epochs: int | None, preset: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the model's config and training config as plain dicts.

    They are its defaults, changed by the preset, then by the overrides, then by the limit of epochs.

    Raises:
        UsageError: a field that the model does not have, or a value that does not fit it.
    """
    name, cls, known = model.name, model.cls, setting_names(model.cls)
    listing = f"seqbench list models {model.reference}"
    for field in overrides:
        if field not in known:
            if not known:
                raise UsageError(f"{name} has nothing to set.", hint="Leave it out of --set.")
            raise unknown_name(f"Setting of {name}", field, sorted(known), listing)
    try:
        config = _replaced(cls.Config(), preset or {}, overrides)
        training = cls.training_defaults
        if training is not None:
            training = _replaced(training, preset or {}, overrides)
            if epochs is not None:
                training = dataclasses.replace(training, epochs=epochs)
            check_objective(config, training)
    except ValueError as error:
        raise UsageError(f"{name}: {error}.", hint=f"See `{listing}`.") from None
    return dataclasses.asdict(config), None if training is None else dataclasses.asdict(training)


def changes(cls: type[Model], config: Mapping[str, Any], training: Mapping[str, Any] | None) -> Changes:
    """Return the settings that differ from the model's defaults, in the two sections of a definition."""
    changed = Changes(config=_differing(config, dataclasses.asdict(cls.Config())))
    if cls.training_defaults is not None:
        changed["training"] = _differing(training or {}, dataclasses.asdict(cls.training_defaults))
    return changed


def parse_settings(settings: Mapping[str, Any], models: Mapping[str, ModelEntry]) -> dict[str, dict[str, Any]]:
    """Return settings by model: model → field → value.

    Args:
        settings: "model.field" → value, and "field" → value for all models that have the field. What is said of one
            model goes before what is said of all.
        models: by name, those that are being run.

    Raises:
        UsageError: a model that is not being run, or a field that none of them has.
    """
    own: dict[str, dict[str, Any]] = {name: {} for name in models}
    common: dict[str, dict[str, Any]] = {name: {} for name in models}
    for target, value in settings.items():
        model, dot, field = target.strip().rpartition(".")
        if not field or (dot and not model):
            raise UsageError(f"'{target}' is no setting.", hint="For example --set lrurec.dropout=0.5")
        if not dot:
            having = [name for name in models if field in setting_names(models[name].cls)]
            if not having:
                known = sorted({each for name in models for each in setting_names(models[name].cls)})
                raise unknown_name("Setting", field, known, "seqbench list models NAME")
            for name in having:
                common[name][field] = value
        elif model not in own:
            registered = model_names()
            if model not in registered:
                raise unknown_name("Model", model, [*models, *registered], "seqbench list models")
            raise UsageError(f"{target}: {model} is not among the models of this run.", hint="Add it to --models.")
        else:
            own[model][field] = value
    return {name: common[name] | own[name] for name in models}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != defaults.get(name)}


def _replaced(config: Any, preset: Mapping[str, Any], overrides: Overrides) -> Any:
    hints = {field.name: type(getattr(config, field.name)) for field in dataclasses.fields(config)}
    tuned = dataclasses.replace(config, **{name: value for name, value in preset.items() if name in hints})
    chosen = {name: read_value(hints[name], name, value) for name, value in overrides.items() if name in hints}
    return dataclasses.replace(tuned, **chosen)


def read_value(kind: type, field: str, value: Any) -> Any:
    """Return a value of a field's type; text is read as one.

    Raises:
        ValueError: it does not fit the type.
    """
    if not isinstance(value, str) or kind is str:
        return float(build(kind, value, field)) if kind is float else build(kind, value, field)
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{field} must be true or false, not '{value}'")
        return value.lower() == "true"
    if kind not in (int, float):
        raise ValueError(f"{field} cannot be set on the command line: its default is no number, word, true or false")
    try:
        number = kind(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{field} must be {what}, not '{value}'") from None
