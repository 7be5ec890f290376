"""Reading the words of a command line."""

import re
from collections.abc import Sequence
from typing import Any

from seqbench.errors import UsageError, unknown_name
from seqbench.measuring.grid import MODES


def split_words(text: str) -> list[str]:
    """Return comma-separated words, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def names(text: str | None, option: str, listing: str) -> list[str] | None:
    """Return comma-separated names, each once; None if the option was not given.

    Raises:
        UsageError: there is none.
    """
    found = None if text is None else split_words(text)
    if found == []:
        raise UsageError(f"{option} names nothing: '{text}'.", hint=f"See `{listing}`.")
    return found


def seeds(text: str) -> list[int]:
    """Return comma-separated non-negative integers and ranges of them, such as 0,1 or 0-4.

    Raises:
        UsageError: it is something else.
    """
    found: list[int] = []
    try:
        for word in split_words(text):
            first, dash, last = word.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = []
    if not found:
        raise UsageError(
            f"--seeds takes numbers such as 0,1,2 or 0-4, not '{text}'.", hint="See `seqbench run --help`."
        )
    return list(dict.fromkeys(found))


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Return comma-separated integers of at least one, in increasing order.

    Raises:
        UsageError: it is something else.
    """
    try:
        found = sorted({int(word) for word in split_words(text)})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise UsageError(f"{option} takes whole numbers such as 64,256, not '{text}'.", hint="They start at 1.")
    return tuple(found)


def modes(text: str) -> tuple[str, ...]:
    """Return comma-separated modes of latency.

    Raises:
        UsageError: there is no such mode.
    """
    found = split_words(text)
    for word in found:
        if word not in MODES:
            raise unknown_name("Mode", word, MODES, "seqbench run --help")
    return tuple(found)


def settings(words: Sequence[str], **common: Any) -> dict[str, Any]:
    """Return `model.field=value` and `field=value` words as "model.field" or "field" → text.

    Args:
        common: fields of all models that have options of their own; None if not given, and less than a word.

    Raises:
        UsageError: a word is not of that form.
    """
    found = {name: value for name, value in common.items() if value is not None}
    for word in words:
        target, equals, value = word.partition("=")
        if not equals or not target.strip():
            raise UsageError(
                f"--set takes model.field=value or field=value, not '{word}'.",
                hint="For example --set lrurec.dropout=0.5",
            )
        found[target.strip()] = value.strip()
    return found


def shard(text: str | None) -> tuple[int, int] | None:
    """Read "2/4": the second of four parts; None for no text."""
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isascii() and part.isdecimal() and parts.isascii() and parts.isdecimal()):
        raise UsageError(f"--shard '{text}' is no part of the cells.", hint="--shard 1/4 is the first of four.")
    return int(part), int(parts)


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?")


def duration(text: str | None, option: str) -> float | None:
    """Read "8h", "1h30m" or "90s" as seconds; None for no text.

    Raises:
        UsageError: it is something else, or no time at all.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch("".join(text.lower().split()))
    seconds = found and sum(int(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
    if not seconds:
        raise UsageError(f"{option} takes times such as 8h, 1h30m or 90s, not '{text}'.", hint="The unit is needed.")
    return float(seconds)
