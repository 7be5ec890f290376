"""Which column of a user's own file is which: as the user says, else by the names that people give them.

Where a file can be read in two ways, the one that is plainly right is taken with a note; if none is, an error shows
both, and the option that chooses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seqbench.columns import ROLES
from seqbench.data.parsers import times
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.times import TIME_OF_DAY
from seqbench.errors import SeqbenchError, UsageError

# Names in lower case, without spaces, "_" and "-".
KNOWN = {
    "user": (
        *("user", "userid", "uid", "reviewerid", "username", "sessionid", "session", "customerid", "visitorid"),
        *("customer", "visitor", "userindex", "useridx", "memberid", "accountid"),
    ),
    "item": (
        *("item", "itemid", "iid", "movieid", "parentasin", "asin", "productid", "businessid", "artistid", "sid"),
        *("movie", "product", "isbn", "videoid", "trackid", "songid", "newsid", "articleid", "venueid", "bookid"),
        *("itemindex", "itemidx", "goodsid", "stockcode", "skuid", "locationid", "poiid"),
    ),
    "time": ("timestamp", "time", "unixreviewtime", "date", "datetime", "ts", "unixtime", "timestamps"),
    "rating": ("rating", "overall", "stars", "score"),
    "position": ("position", "pos"),
    "split": ("split",),
}

# Whole histories in one column, which is not how these files are read.
LISTS = (
    *("history", "items", "itemids", "itemlist", "itemidlist", "itemseq", "itemsequence", "sequence", "itemhistory"),
    *("clickhistory", "hist", "historyitems"),
)

# Words of a name that are about times, and those that say which time of an interaction it is.
TIME_WORDS = {"time", "timestamp", "ts", "date", "datetime", "created", "epoch", "unixtime", "day", "when"}
# fmt: off
WHICH_TIME = {
    "ms", "us", "ns", "sec", "secs", "seconds", "s", "millis", "micros", "nanos", "unix", "utc", "gmt", "local",
    "iso", "raw", "at", "on", "in", "start", "event", "click", "view", "visit", "order", "invoice", "purchase",
    "buy", "transaction", "interaction", "review", "reviewed", "rating", "rated", "log", "logged", "action",
    "request", "check", "checkin", "play", "played", "listen", "listened", "watched", "posted", "submitted", "user",
    "item", "session",
}
# fmt: on

NEAR = 36 * 3600.0  # seconds between the same moment as a time and as a day, in any zone

LINES = "Give the file with one interaction in a row, or lines 'user item item …' in a file called .txt."
HINT = "--columns user=NAME,item=NAME,time=NAME; numbers from 1 where there is no header."


@dataclass
class Sample:
    """The first rows of a file, and what is known of its columns."""

    where: str  # names the file in messages
    names: list[str]
    values: dict[str, list[str]] = field(default_factory=dict)  # column → texts, empty where there is none
    lists: set[str] = field(default_factory=set)  # columns whose values are lists
    headed: bool = True  # whether the names are those of the file, and not numbers
    notes: list[str] = field(default_factory=list)  # what the user should know of how the file is read

    def listed(self) -> str:
        """Return the names for a message."""
        return ", ".join(self.names[:20]) + (", …" if len(self.names) > 20 else "")


def columns(sample: Sample, chosen: dict[str, str], *, ratings: bool) -> dict[str, str]:
    """Return role → column: as chosen, else as recognised. Notes go to the sample.

    Args:
        chosen: role → column of the user; empty for a role that is to have none.
        ratings: whether the ratings are needed.

    Raises:
        UsageError: a column is not there, or it is not clear which is meant.
    """
    found = _chosen(sample, chosen)
    for role in ROLES:
        if role in chosen or (role == "rating" and not ratings) or not sample.headed:
            continue
        free = [name for name in sample.names if name not in found.values()]
        column = _time(sample, free) if role == "time" else _named(sample, role, free)
        if column is not None:
            found[role] = column
        elif role in ("user", "item"):
            raise _without(sample, role)
    for role in ("user", "item"):
        if role not in found:
            raise _without(sample, role)
    if ratings and "rating" not in found:
        raise UsageError(
            f"{sample.where} has no ratings (it has {sample.listed()}).", hint="Say --columns rating=NAME."
        )
    if twice := [name for name in found.values() if sample.names.count(name) > 1]:
        raise UsageError(
            f"{sample.where}: two columns have the same name, {twice[0]} (it has {sample.listed()}).",
            hint="Rename one of them.",
        )
    _check_lists(sample, found, chosen)
    if "time" in chosen and "position" in found and "position" not in chosen:
        sample.notes.append(
            f"its column {found.pop('position')} is not read, as --columns names the time; position=NAME reads it."
        )
    if "time" not in found and not sample.headed and "time" not in chosen:
        _note_unread_times(sample, found)
    return found


def _chosen(sample: Sample, chosen: dict[str, str]) -> dict[str, str]:
    for role, name in chosen.items():
        if not name and role in ("user", "item"):
            raise UsageError(f"--columns: {role}= names no column.", hint=HINT)
        if name and name not in sample.names:
            raise UsageError(f"{sample.where} has no column '{name}' (it has {sample.listed()}).", hint=HINT)
    return {role: name for role, name in chosen.items() if name}


def plain(name: str) -> str:
    """Return a name as KNOWN has it."""
    return re.sub(r"[ _.-]", "", name.strip().lower())


def _named(sample: Sample, role: str, free: list[str]) -> str | None:
    known = [name for name in dict.fromkeys(free) if plain(name) in KNOWN[role]]
    if len(known) > 1:
        raise UsageError(
            f"{sample.where}: which column is the {role}, {' or '.join(known)}?", hint=f"Say --columns {role}=NAME."
        )
    return known[0] if known else None


def _without(sample: Sample, role: str) -> UsageError:
    lists = [name for name in sample.names if name in sample.lists or plain(name) in LISTS]
    if role == "item" and lists:
        return UsageError(
            f"{sample.where}: no column is recognised as the item, and {lists[0]} holds lists of items, which are not "
            "read.",
            hint=LINES,
        )
    return UsageError(
        f"{sample.where}: no column is recognised as the {role} (it has {sample.listed()}).", hint=f"Say {HINT}"
    )


def _time(sample: Sample, free: Sequence[str]) -> str | None:
    """Return the column of the time. A finer one beats a coarser one of the same moments."""
    named = [name for name in dict.fromkeys(free) if plain(name) in KNOWN["time"]]
    similar = [name for name in dict.fromkeys(free) if name not in named and _words(name) & TIME_WORDS]
    seconds = {name: times.in_seconds(sample.values.get(name, [])) for name in (*named, *similar)}
    similar = [name for name in similar if _in_our_era(seconds[name])]
    for name in named:
        if len(named) > 1 and any(TIME_OF_DAY.match(value.strip()) for value in sample.values.get(name, [])[:1]):
            raise UsageError(
                f"{sample.where}: the day and the time of day are in two columns, {' and '.join(named)}.",
                hint="Join them into one column, such as 2011-03-13 07:06:40, and name that: --columns time=NAME.",
            )
    readable = [name for name in named if seconds[name] is not None]
    if len(readable) > 1 and not _same(seconds, readable):
        raise _two_times(sample, readable)
    if named and not readable:
        return named[0]  # its values are complained about when they are read
    alike = [name for name in similar if readable and _same(seconds, [readable[0], name])]
    if candidates := [*readable, *alike]:
        best = max(candidates, key=lambda name: (_distinct(seconds[name]), -candidates.index(name)))
        others = [name for name in candidates if name != best]
        if others:
            sample.notes.append(
                f"its time is {best}, and not {' or '.join(others)}; --columns time=NAME chooses another."
            )
        return best
    if len(similar) > 1 and not _same(seconds, similar):
        raise _two_times(sample, similar)
    if not similar:
        return None
    best = max(similar, key=lambda name: (_distinct(seconds[name]), -similar.index(name)))
    if any(_words(name) - TIME_WORDS - WHICH_TIME for name in similar):
        raise UsageError(
            f"{sample.where}: is its column {best} the time of the interactions? It may be a time of something else, "
            "and then the order of the rows is the order of events.",
            hint=f"Say --columns time={best}, or --columns time= for none.",
        )
    sample.notes.append(f"its time is {best}; --columns time=NAME chooses another, and time= none.")
    return best


def _two_times(sample: Sample, names: Sequence[str]) -> UsageError:
    shown = " or ".join(f"{name} ({next(iter(sample.values.get(name, [])), '')} in the first row)" for name in names)
    return UsageError(
        f"{sample.where}: which column is the time, {shown}?", hint="Say --columns time=NAME, or time= for none."
    )


def _words(name: str) -> set[str]:
    """Return the words of event_time, eventTime, event-time, eventtime."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = {word.lower() for word in re.split(r"[^A-Za-z]+", spaced) if word}
    for word in list(words):
        joined = re.fullmatch(r"(\w{2,})(timestamp|datetime|time|date)", word) or re.fullmatch(
            r"(timestamp|datetime|time|date)(\w+)", word
        )
        if joined:
            words = words - {word} | set(joined.groups())
    return words


def _in_our_era(seconds: "np.ndarray | None") -> bool:
    """Return whether values are plausible times of interactions."""
    if seconds is None or np.isnan(seconds).mean() > 0.5:
        return False
    return bool(1e8 < np.nanmedian(seconds) < 5e9)


def _days_only(seconds: "np.ndarray | None") -> bool:
    return seconds is not None and not (seconds[~np.isnan(seconds)] % 86_400).any()


def _distinct(seconds: "np.ndarray | None") -> int:
    return 0 if seconds is None else len(np.unique(seconds[~np.isnan(seconds)]))


def _same(seconds: "dict[str, np.ndarray | None]", names: Sequence[str]) -> bool:
    """Return whether columns hold the same moments, some perhaps cut to days."""
    first, *others = (seconds[name] for name in names)
    return all(first is not None and other is not None and not (np.abs(first - other) > NEAR).any() for other in others)


def _check_lists(sample: Sample, found: dict[str, str], chosen: dict[str, str]) -> None:
    """Whole histories are not read: say so, or ask where that may be what the file is about."""
    lists = [name for name in sample.names if name in sample.lists or plain(name) in LISTS]
    if found["item"] in lists:
        raise UsageError(
            f"{sample.where}: its column {found['item']} holds lists of items, which are not read.", hint=LINES
        )
    if not lists:
        return
    item = found["item"]
    if "item" not in chosen and any(name in sample.lists and _about_items(name) for name in lists):
        raise UsageError(
            f"{sample.where}: is a row one interaction with {item}, or the history in {lists[0]} with {item} after it? "
            "Histories are not read.",
            hint=f"Say --columns item={item} for one interaction in a row. {LINES}",
        )
    sample.notes.append(f"its column {lists[0]} is not read: a row is one interaction, with {item}.")


def _about_items(name: str) -> bool:
    return plain(name) in LISTS or "item" in plain(name) or "history" in plain(name)


def _note_unread_times(sample: Sample, found: dict[str, str]) -> None:
    for name in sample.names:
        values = sample.values.get(name, [])
        if name not in found.values() and _in_our_era(times.in_seconds(values)):
            sample.notes.append(f"its column {name} looks like a time; --columns time={name} reads it.")
            return


def ordered(lines: Lines, where: str, names: list[str], delimiter: str) -> tuple[list[str], dict[str, str]]:
    """Consume the header of a published file, if a copy has one, and return the columns in its order.

    Args:
        names: the columns where there is no header, those of a role by the name of that.
        delimiter: between two values.

    Returns:
        The columns, and role → title for those that have one.

    Raises:
        SeqbenchError: the first line is a header that does not say which column is which.
    """
    titles = [value.strip().strip('"').strip() for value in lines.peek().split(delimiter)]
    roles = [next((role for role in names if plain(title) in KNOWN.get(role, ())), "") for title in titles]
    wanted = [name for name in names if name in ROLES]
    if sum(map(bool, roles)) < 2:
        time = titles[names.index("time")] if "time" in names and len(titles) == len(names) else ""
        if len(titles) == len(names) and time.isalpha():
            raise _unordered(where, titles, wanted)
        return names, {}
    lines.quoted = '"' in lines.header()
    if any(roles.count(role) != 1 for role in wanted):
        raise _unordered(where, titles, wanted)
    found = [role or title for role, title in zip(roles, titles, strict=True)]
    return found, {role: title for role, title in zip(roles, titles, strict=True) if role}


def _unordered(where: str, titles: list[str], wanted: list[str]) -> SeqbenchError:
    return SeqbenchError(
        f"{where}: its header does not say which column is the {', the '.join(wanted)} (it has "
        f"{', '.join(titles)[:200]}).",
        hint="Name the columns so, or give the file as the publisher has it.",
    )
