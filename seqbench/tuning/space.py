"""What is searched of each model: its own space, beside its config, or that of a file.

A file of spaces is YAML. It names settings as `--set` does, of one model or of all that have them, and says what they
can be: numbers in a range, or one of a list.

    learning_rate: {low: 0.0001, high: 0.01, log: true}
    dropout: {low: 0.0, high: 0.8}
    lrurec.layers: [1, 2, 3]

What it does not name keeps its default.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from seqbench.errors import UsageError
from seqbench.files import read_regular
from seqbench.models import ModelEntry
from seqbench.settings import configure, parse_settings, read_value, setting_names
from seqbench.tuning.dimensions import Choice, Dimension, Range
from seqbench.typed import build

Space = Mapping[str, Dimension]  # field → what it can be

D = TypeVar("D", Range, Choice)

LARGEST_FILE = 1 << 20
FORM = "a range such as {low: 0.0001, high: 0.01, log: true}, or a list of values such as [32, 64]"


def own_spaces(
    models: Mapping[str, ModelEntry], overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Space]:
    """Return the spaces beside the models' configs, without fields that a model lacks or that are set."""
    spaces: dict[str, Space] = {}
    for name, entry in models.items():
        fields = [field for field in setting_names(entry.cls) if field in entry.cls.space]
        spaces[name] = {
            field: entry.cls.space[field] for field in fields if field not in (overrides or {}).get(name, {})
        }
    return spaces


def read_spaces(path: Path, models: Mapping[str, ModelEntry]) -> dict[str, Space]:
    """Read the spaces of models from a file.

    Raises:
        UsageError: it cannot be read, or names what is no setting, or says of one what it cannot be.
    """
    hint = f"Each setting is {FORM}."
    try:
        named = yaml.safe_load(read_regular(path, LARGEST_FILE))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise UsageError(f"{path} cannot be read as YAML ({reason}).", hint=hint) from None
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named):
        raise UsageError(f"{path} names no settings.", hint=hint)
    try:
        by_model = parse_settings(named, models)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from None
    try:
        return {
            name: {field: _dimension(value, _kind(models[name], field), field) for field, value in fields.items()}
            for name, fields in by_model.items()
        }
    except ValueError as error:
        raise UsageError(f"{path}: {error}.", hint=hint) from None


def check_spaces(
    spaces: Mapping[str, Space], models: Mapping[str, ModelEntry], overrides: Mapping[str, Mapping[str, Any]]
) -> None:
    """Check that every model can take every value of its space, one at a time, and that there is something to search.

    Raises:
        UsageError: it cannot, or there is not, or a setting is both searched and set.
    """
    for name, space in spaces.items():
        if not space:
            raise UsageError(f"Nothing is searched of {name}.", hint="Give a --space that names settings of it.")
        for field, dimension in space.items():
            if field in overrides.get(name, {}):
                raise UsageError(f"{name}.{field} is both set and searched.", hint="Leave it out of --set or --space.")
            for value in dimension.ends:
                try:
                    configure(models[name], {**overrides.get(name, {}), field: value}, None)
                except UsageError as error:
                    raise UsageError(
                        f"The space of {name} goes too far: {error.message}", hint=f"Narrow {field} in --space."
                    ) from None


def size(space: Space) -> float:
    """Return how many settings there are to be tried."""
    return math.prod(dimension.count for dimension in space.values())


def _kind(model: ModelEntry, field: str) -> type:
    config, training = configure(model, {}, None)
    return type({**config, **(training or {})}[field])


def _dimension(value: Any, kind: type, field: str) -> Dimension:
    """Return what a file says of a setting, whose default is of this kind."""
    if isinstance(value, list):
        return _built(Choice, field, values=tuple(read_value(kind, field, each) for each in value))
    if not isinstance(value, dict) or kind not in (int, float):
        raise ValueError(f"{field} must be {'a list of values' if kind not in (int, float) else FORM}, not {value!r}")
    if unknown := value.keys() - {"low", "high", "log"}:
        raise ValueError(f"{field} has no {min(map(str, unknown))}; it has low, high and log")
    if missing := {"low", "high"} - value.keys():
        raise ValueError(f"{field}.{min(missing)} is missing")
    bounds = {name: read_value(kind, f"{field}.{name}", value[name]) for name in ("low", "high")}
    return _built(Range, field, **bounds, log=build(bool, value.get("log", False), f"{field}.log"))


def _built(dimension: type[D], field: str, **fields: Any) -> D:
    try:
        return dimension(**fields)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
