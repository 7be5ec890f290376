"""Build dataclasses from plain values (as YAML and JSON give them), checking every field on the way.

A field's type says what it takes: text, whole numbers, numbers, `Literal` choices, tuples (one value or a list),
dictionaries, other dataclasses, each perhaps `| None`; `Annotated[kind, check]` adds a check.
"""

import functools
import re
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from seqbench.errors import SeqbenchError

T = TypeVar("T")


class FieldError(ValueError):
    """A field holds a value that it may not; `field` is its path from the object that was checked."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field} {why}")
        self.field = field
        self.why = why


@dataclass(frozen=True)
class Check:
    """A condition on a value, and the words for a value that does not meet it."""

    holds: Callable[[Any], bool]
    words: str  # "must be at least 1"


def at_least(least: int) -> Check:
    """Check that a number is not below `least`."""
    return Check(lambda value: value >= least, f"must be at least {least}")


def matching(pattern: str, words: str) -> Check:
    """Check that a text matches the whole pattern; `words` name such texts."""
    return Check(lambda text: re.fullmatch(pattern, text) is not None, f"must be {words}")


_KINDS = {str: "text", int: "a whole number", float: "a number"}


def build(kind: type[T], value: object, path: str) -> T:
    """Build the dataclass `kind` from a mapping.

    Args:
        path: names the mapping in messages, as in "ml-100k.filters".

    Raises:
        SeqbenchError: a field is missing, unknown or wrong; the message begins with its path.
    """
    try:
        return cast(T, _build(kind, value, path))
    except FieldError as error:
        raise SeqbenchError(f"{error.field} {error.why}.") from error


def check_fields(built: Any) -> None:
    """Check the fields of a dataclass object against its types; for `__post_init__`.

    Raises:
        FieldError: one of them does not fit.
    """
    for name, hint in _hints(cast(Any, type(built))).items():
        value = getattr(built, name)
        # Nested objects have checked themselves.
        if not is_dataclass(value) and not (isinstance(value, tuple) and any(map(is_dataclass, value))):
            _build(hint, value, name)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _build(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _build(arguments[0], value, path)
        for check in arguments[1:]:
            if isinstance(check, Check) and value is not None and not check.holds(value):
                raise FieldError(path, f"{check.words}, not {value!r}")
        return value
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _build(inner, value, path)
    if origin is Literal:
        if value not in arguments:
            raise FieldError(path, f"must be one of {', '.join(map(str, arguments))}, not {value!r}")
        return value
    if origin is tuple:
        one = not isinstance(value, list | tuple)
        return tuple(
            _build(arguments[0], each, path if one else f"{path}[{index}]")
            for index, each in enumerate([value] if one else value)
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise FieldError(path, f"must be a mapping, not {value!r}")
        return {str(key): _build(arguments[1], each, f"{path}.{key}") for key, each in value.items()}
    if is_dataclass(hint):
        return _object(cast(type, hint), value, path)
    if isinstance(value, bool) or not isinstance(value, (int, float) if hint is float else hint):
        raise FieldError(path, f"must be {_KINDS[hint]}, not {value!r}")
    return value.strip() if isinstance(value, str) else value


def _object(kind: type, value: Any, path: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise FieldError(path, "must be a mapping")
    hints = _hints(kind)
    if unknown := [name for name in value if name not in hints]:
        raise FieldError(f"{path}.{unknown[0]}", "is not a field that seqbench knows")
    found = {}
    for field in fields(kind):
        if value.get(field.name) is not None:
            found[field.name] = _build(hints[field.name], value[field.name], f"{path}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise FieldError(f"{path}.{field.name}", "is missing")
    try:
        return kind(**found)
    except FieldError as error:
        raise FieldError(f"{path}.{error.field}", error.why) from error
