"""Text of other people on a terminal or a page."""

import dataclasses
import unicodedata
from typing import Any, TypeVar, cast

T = TypeVar("T")

KEPT = "\n\t"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Controls (Cc), formats such as the reversal of writing (Cf), halves of characters (Cs).
HARMFUL = ("Cc", "Cf", "Cs")


def printable(value: T) -> T:
    """Return a value in which no text can command a terminal: control characters are replaced, lines and tabs stay.

    Args:
        value: text, or lists, tuples, dicts and dataclasses of values; others are returned as they are.
    """
    return cast(T, _printable(value))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(_character, value))
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return type(value)(map(_printable, value))
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _printable(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value


def _character(character: str) -> str:
    harmful = unicodedata.category(character) in HARMFUL and character not in KEPT
    return REPLACEMENT if harmful else character
