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
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

T = TypeVar("T")
Check = Callable[[Any], Any]  # returns the value as its type has it, or raises _Mismatch

NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}
TEXT_SHOWN = 60  # characters of a wrong value
SURROGATE = re.compile("[\ud800-\udfff]")  # halves of characters, which no file can hold


class _Mismatch(Exception):
    """A value that does not fit; the path to it grows while the error passes through what holds the value.

    Args:
        words: where the value is → what is wrong.
    """

    def __init__(self, words: Callable[[str], str]) -> None:
        super().__init__()
        self.words = words
        self.path = ""

    def within(self, part: str) -> "_Mismatch":
        """Return the error with a part before its path: ".name" or "[3]"."""
        self.path = part + self.path
        return self


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
    try:
        return typing.cast(T, _check(typing.cast(Any, kind))(value))
    except _Mismatch as mismatch:
        raise ValueError(mismatch.words(where + mismatch.path)) from None


@functools.cache
def _check(kind: Any) -> Check:
    """Return the function that checks values of a type. Stores hold thousands of records: types are read once."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value: value
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        return _check(arguments[0])
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    if typing.is_typeddict(kind):
        return _typed_dict(kind)
    if origin in (list, tuple):
        return _sequence(origin, _check(arguments[0]))
    if origin is dict or kind is dict:
        return _mapping(_check(arguments[1] if arguments else Any))
    return _plain(type(None) if kind is None else kind)


def _plain(kind: Any) -> Check:
    noun = NOUNS.get(kind, kind)

    def check(value: Any) -> Any:
        if type(value) is kind:
            if kind is float and not math.isfinite(value):
                raise _Mismatch(lambda where: f"{where} must be finite, not {value}")
            if kind is str and not value.isascii() and SURROGATE.search(value):
                raise _Mismatch(lambda where: f"{where} must be text that can be written, not {_shown(value)}")
            return value
        if kind is float and type(value) is int:
            return value  # JSON writes 1.0 as 1; what is read is written back as it was
        raise _wrong(value, f"{noun}")

    return check


def _literal(allowed: tuple[Any, ...]) -> Check:
    def check(value: Any) -> Any:
        if any(value == each and type(value) is type(each) for each in allowed):
            return value
        raise _wrong(value, f"one of {', '.join(map(str, allowed))}")

    return check


def _union(kinds: tuple[Any, ...]) -> Check:
    optional = type(None) in kinds
    checks = [_check(kind) for kind in kinds if kind is not type(None)]

    def check(value: Any) -> Any:
        if value is None and optional:
            return None
        reasons = []
        for inner in checks:
            try:
                return inner(value)
            except _Mismatch as mismatch:
                reasons.append(mismatch)
        raise reasons[0]

    return check


def _sequence(kind: Callable[[list[Any]], Any], inner: Check) -> Check:
    accepted = list if kind is list else (list, tuple)

    def check(value: Any) -> Any:
        if not isinstance(value, accepted):
            raise _wrong(value, "a list")
        made = []
        for at, each in enumerate(value):
            try:
                made.append(inner(each))
            except _Mismatch as mismatch:
                raise mismatch.within(f"[{at}]") from None
        return made if kind is list else kind(made)

    return check


def _mapping(inner: Check) -> Check:
    def check(value: Any) -> Any:
        _require_mapping(value)
        if odd := [_shown(name) for name in value if not isinstance(name, str)]:
            raise _Mismatch(lambda where: f"a name in {where} must be text, not {odd[0]}")
        return _fields(value, dict.fromkeys(value, inner))

    return check


def _typed_dict(kind: Any) -> Check:
    checks = {name: _check(hint) for name, hint in typing.get_type_hints(kind).items()}
    required = kind.__required_keys__

    def check(value: Any) -> Any:
        _require_mapping(value)
        _require_names(value, required)
        return _fields(value, checks)

    return check


def _dataclass(kind: Any) -> Check:
    fields = [field for field in dataclasses.fields(kind) if field.init]
    missing = dataclasses.MISSING
    required = {each.name for each in fields if each.default is missing and each.default_factory is missing}
    checks = {name: _check(hint) for name, hint in typing.get_type_hints(kind).items()}

    def check(value: Any) -> Any:
        _require_mapping(value)
        _require_names(value, required)
        if unknown := [_shown(name) for name in value if name not in checks]:
            raise _Mismatch(lambda where: f"{where} has no {unknown[0]}; its fields are {', '.join(checks)}")
        built = _fields(value, checks)
        try:
            return kind(**built)
        except ValueError as error:
            reason = str(error)
            raise _Mismatch(lambda where: f"{where}: {reason}") from None

    return check


def _fields(value: dict[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return a copy of a mapping with what the checks of its names make of the values."""
    made = dict(value)
    name = ""
    try:
        for name, inner in checks.items():
            if name in made:
                made[name] = inner(made[name])
    except _Mismatch as mismatch:
        raise mismatch.within(f".{name}") from None
    return made


def _require_mapping(value: Any) -> None:
    if not isinstance(value, dict):
        raise _wrong(value, "a mapping")


def _require_names(value: dict[Any, Any], required: Set[str]) -> None:
    if missing := sorted(required - value.keys()):
        raise _Mismatch(lambda where: f"{where}.{missing[0]} is missing")


def _wrong(value: Any, noun: str) -> _Mismatch:
    return _Mismatch(lambda where: f"{where} must be {noun}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"
