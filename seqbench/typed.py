"""Plain values from files, checked against the types that the code expects.

JSON and YAML give dicts, lists, numbers and text. `build` makes the dataclass or TypedDict of them that a type
describes, or says what is wrong where: "record.cost.latency[3].p50_ms must be a number, not 'fast'".
"""

import dataclasses
import functools
import math
import re
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")

NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}
TEXT_SHOWN = 60  # characters of a wrong value
SURROGATE = re.compile("[\ud800-\udfff]")  # halves of characters, which no file can hold


def build(kind: type[T], value: Any, where: str) -> T:
    """Return the value as an instance of a type.

    Args:
        kind: a dataclass, a TypedDict, int, float, str, bool, None, Any, a Literal, a union, or a list, tuple or
            dict of such. Dataclasses allow no unknown names; TypedDicts keep them, unchecked.
        value: what a parser of JSON or YAML gave.
        where: what the value is called in messages.

    Raises:
        ValueError: the value does not fit the type; with the path to the part that does not. What a dataclass says of
            its own fields is passed on.
    """
    return typing.cast(T, _build(kind, value, where))


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        return _build(arguments[0], value, where)
    if origin is typing.Literal:
        if not any(value == each and type(value) is type(each) for each in arguments):
            raise ValueError(f"{where} must be one of {', '.join(map(str, arguments))}, not {_shown(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if typing.is_typeddict(kind):
        fields = _fields(kind, value, where, required=set(kind.__required_keys__), closed=False)
        return {**value, **fields}
    if origin is list:
        return [
            _build(arguments[0], each, f"{where}[{at}]") for at, each in enumerate(_of(list, value, where, "a list"))
        ]
    if origin is tuple:
        entries = _of((list, tuple), value, where, "a list")
        return tuple(_build(arguments[0], each, f"{where}[{at}]") for at, each in enumerate(entries))
    if origin is dict or kind is dict:
        entries = _of(dict, value, where, "a mapping")
        inner = arguments[1] if arguments else Any
        for name in entries:
            _of(str, name, f"a name in {where}", "text")
        return {name: _build(inner, each, f"{where}.{name}") for name, each in entries.items()}
    if kind is float and type(value) is int:
        return value  # JSON writes 1.0 as 1; what is read is written back as it was
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be finite, not {value}")
    if kind is str and isinstance(value, str) and SURROGATE.search(value):
        raise ValueError(f"{where} must be text that can be written, not {_shown(value)}")
    if type(value) is not (type(None) if kind is None else kind):
        raise ValueError(f"{where} must be {NOUNS.get(kind, kind)}, not {_shown(value)}")
    return value


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    reasons = []
    for kind in kinds:
        try:
            return _build(kind, value, where)
        except ValueError as error:
            if kind is not type(None):
                reasons.append(error)
    raise reasons[0]


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    built = _fields(kind, value, where, required=required, closed=True)
    try:
        return kind(**built)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _fields(kind: Any, value: Any, where: str, *, required: set[str], closed: bool) -> dict[str, Any]:
    hints = _hints(kind)
    entries = _of(dict, value, where, "a mapping")
    if missing := sorted(required - entries.keys()):
        raise ValueError(f"{where}.{missing[0]} is missing")
    if closed and (unknown := [name for name in entries if name not in hints]):
        raise ValueError(f"{where} has no {_shown(unknown[0])}; its fields are {', '.join(hints)}")
    return {name: _build(hints[name], each, f"{where}.{name}") for name, each in entries.items() if name in hints}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _of(kinds: Any, value: Any, where: str, noun: str) -> Any:
    if not isinstance(value, kinds):
        raise ValueError(f"{where} must be {noun}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"
