"""The user's own files: CSV, TSV, JSON lines, Parquet, RecBole's .inter, and "user item item …" lines.

A file is looked at first: how its values are separated, whether there is a header, which column is which, how the
times are written. What that leaves open is asked, not guessed; what is not obvious becomes a note.
"""

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqbench.columns import ITEM, POSITION, ROLES, TIMESTAMP, USER
from seqbench.data.log import Log, finer
from seqbench.data.parsers import delimited, objects, parquet, recbole, recognise, sequences, times
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.recognise import KNOWN, LISTS, Sample, plain
from seqbench.data.parsers.rows import Fields, empty
from seqbench.errors import SeqbenchError, UsageError

TEXT = ("csv", "tsv", "tab", "txt", "dat", "data", "inter")
JSON = ("json", "jsonl", "ndjson")
DELIMITERS = ("\t", ";", "|", ",", " ")
ROWS = 1000  # that are looked at first

SEQUENCES = "2+"  # what --columns item= says of lines 'user item item …'
LONGEST_ROW = 6  # lines of as many numbers each may be rows of a table; longer ones are sequences

CERTAIN = 0.9  # of the first rows must have as many values as the first


@dataclass(frozen=True)
class UserFile:
    """The rows of a user's own file, and what they are."""

    log: Log
    columns: dict[str, str]  # role → column; empty where the format has no names
    timed: bool
    unit: str  # of the times


def ending(path: Path) -> str:
    """Return what follows the last dot of a file's name, without .gz."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def interactions(
    stream: BinaryIO, where: str, path: Path, chosen: dict[str, str], *, ratings: bool, day_first: bool | None = None
) -> UserFile:
    """Read a user's own file.

    Args:
        stream: its content, unpacked.
        path: its name tells the format; Parquet, which cannot be read from front to back, is read from there.
        chosen: role → column, or its number from 1 in a file without a header; all others are recognised. An empty
            column says that there is none. "2+" for the item reads lines 'user item item …'.
        ratings: whether the ratings are needed.
        day_first: how dates such as 3/4/2011 are read, where the first rows do not tell.

    Raises:
        UsageError: a column is not there, or it is not clear which is meant.
        AmbiguousDates: the first rows do not tell the days of dates from their months.
        SeqbenchError: the file is empty, or is malformed past the limit.
    """
    kind = ending(path)
    if kind == "parquet":
        found = _parquet(path, where, chosen, ratings, day_first)
    elif kind in JSON:
        found = _json(Lines(stream, where), where, chosen, ratings, day_first)
    elif kind in TEXT:
        found = _text(Lines(stream, where), where, kind, chosen, ratings, day_first)
    else:
        raise UsageError(
            f"{where}: what kind of file this is cannot be told from its name.",
            hint=f"Name it .parquet, {', '.join(f'.{name}' for name in TEXT + JSON)}; .gz may follow.",
        )
    return _in_order(found, where, chosen)


def _parquet(path: Path, where: str, chosen: dict[str, str], ratings: bool, day_first: bool | None) -> UserFile:
    sample = parquet.sample(path, where)
    columns = recognise.columns(sample, chosen, ratings=ratings)
    log, unit = parquet.interactions(path, where, _fields(sample, columns, day_first))
    found = _described(log, columns, sample)
    return replace(found, unit=unit) if unit else found


def _json(lines: Lines, where: str, chosen: dict[str, str], ratings: bool, day_first: bool | None) -> UserFile:
    if not lines.peek().strip():
        raise empty(where)
    entries = []
    for number, line in enumerate([lines.peek(), *lines.sample().splitlines()][: ROWS + 1]):
        try:
            entry = objects.exact_json(line) if line.strip() else None
        except (ValueError, RecursionError):
            entry = None
        if number == 0 and not isinstance(entry, dict):
            raise SeqbenchError(
                f"{where}: its first line is no JSON object of at most {delimited.HEADER_LIMIT:,} bytes.",
                hint='Give one object per line: {"user": …, "item": …}.',
            )
        if isinstance(entry, dict):
            entries.append(entry)
    # A key that only later objects have is a column, too.
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    sample = Sample(
        where,
        names,
        {name: [objects.written(entry.get(name)) for entry in entries[1:]] for name in names},
        {name for name in names if any(isinstance(entry.get(name), list) for entry in entries)},
    )
    columns = recognise.columns(sample, chosen, ratings=ratings)
    whole = tuple(
        ROLES[role]
        for role in ("user", "item")
        if all(isinstance(entry.get(columns[role], 0), int) for entry in entries)
    )
    fields = _fields(sample, columns, day_first)
    return _described(objects.json_lines(lines, where, fields, whole_ids=whole), columns, sample)


def _text(
    lines: Lines, where: str, kind: str, chosen: dict[str, str], ratings: bool, day_first: bool | None
) -> UserFile:
    text = lines.sample()
    if not text.strip():
        raise empty(where)
    if "\r" in lines.peek():
        raise SeqbenchError(
            f"{where}: its first lines cannot be read: they end with a carriage return alone.",
            hint="End every line with a line feed (LF or CR LF).",
        )
    given = [column for column in chosen.values() if column]
    headless = bool(given) and all(re.fullmatch(r"[0-9]+|2\+", column) for column in given)
    if chosen.get("item") == SEQUENCES:
        return _sequences(lines, where)
    layout = sniff(text, kind, headed=not headless)
    lines.quoted = layout.quoted
    first = layout.rows[0]
    if not chosen and kind == "txt" and all(re.fullmatch("[0-9]+", value) for value in first):
        _check_sequences(where, layout)
        return _sequences(lines, where)
    rest = layout.rows[1:]
    lists: set[str] = set()
    header: list[str] = []
    sample = Sample(where, first, headed=not headless)
    if headless:
        sample.names = [str(number) for number in range(1, len(first) + 1)]
        if _is_header(first, rest, [int(column) - 1 for column in chosen.values() if column]):
            lines.header()
            header = first
            sample.notes.append(f"its first line is read as a header: {', '.join(first)[:100]}.")
        else:
            rest = layout.rows
    elif kind == "inter":
        header = lines.peek().split("\t")
        sample.names, kinds = recbole.header(lines, where)
        lists = {name for name, each in zip(sample.names, kinds, strict=True) if each.endswith("_seq")}
        sample.lists = {name for name in lists if "item" in name or plain(name) in LISTS}
    else:
        header = _header(lines, layout)
    width = len(sample.names)
    sample.values = {name: [row[at] for row in rest if len(row) == width] for at, name in enumerate(sample.names)}
    columns = recognise.columns(sample, chosen, ratings=ratings)
    fields = _fields(sample, columns, day_first, comma=layout.comma)
    if len(header) == width:
        titles = {ROLES[role]: header[sample.names.index(column)] for role, column in columns.items()}
        fields = replace(fields, header=titles)
    log = delimited.interactions(
        lines, where, sample.names, fields, delimiter=layout.delimiter, separator=layout.separator
    )
    return _described(log, columns, sample)


def _header(lines: Lines, layout: "Layout") -> list[str]:
    """Consume the first row, which may go over several lines in quotes."""
    line = lines.header()
    if layout.quoted and line.count('"') % 2:
        raise SeqbenchError("The header goes over several lines.", hint="Put it into one.")
    return layout.rows[0]


def _sequences(lines: Lines, where: str) -> UserFile:
    note = "it is read as lines 'user item item …', whose order is the order of events."
    log = sequences.read(lines, where)
    return UserFile(replace(log, notes=(*log.notes, note)), {}, timed=False, unit="rows")


def _check_sequences(where: str, layout: "Layout") -> None:
    """Lines "user item item …" have no header, and neither have many files of "user item rating time".

    Raises:
        UsageError: every row has the same few numbers, so that it may be either.
    """
    rows = layout.rows
    count = len(rows[0])
    if layout.delimiter not in " \t" or layout.separator:
        raise UsageError(
            f"{where}: its first line is no header (it has {', '.join(rows[0])[:100]}).",
            hint="Say which column is which by number: --columns user=1,item=2,time=4.",
        )
    if not 3 <= count <= LONGEST_ROW or len(rows) < 2 or any(len(row) != count for row in rows):
        return
    roles = {3: "user=1,item=2,rating=3", 4: "user=1,item=2,rating=3,time=4"}.get(count, "user=1,item=2,time=3")
    last = times.in_seconds([row[-1] for row in rows])
    if last is not None and bool((last > 1e8).all()):
        roles = f"user=1,item=2,time={count}"
        words = f"{where}: its lines end with a time, so they are no sequences 'user item item …'."
    else:
        words = (
            f"{where}: each of its lines has {count} numbers, so they may be rows of a table ('user item rating'), "
            "or sequences 'user item item …'."
        )
    raise UsageError(
        words, hint=f"Say which column is which: --columns {roles}; or --columns user=1,item=2+ for sequences."
    )


@dataclass
class Layout:
    """How the rows of a text file are written."""

    delimiter: str
    rows: list[list[str]]  # the first ones, without blank ones
    separator: bytes | None = None  # several bytes that stand for the delimiter
    quoted: bool = False
    comma: bool = False  # decimal commas


def sniff(text: str, kind: str, *, headed: bool) -> Layout:
    """Find out how the rows of a file are written, from its first lines.

    Args:
        kind: the ending of its name.
        headed: whether the first row should name the columns.
    """
    lines = [line for line in text.splitlines() if line.strip()][:ROWS]
    if "::" in lines[0]:
        return Layout("\t", [line.replace("::", "\t").split("\t") for line in lines], separator=b"::")
    quoted = kind == "csv" or bool(re.search(r'(?:^|[\t;|, ])"(?:[^"\n]|"")*"(?:$|[\t;|, ])', text, re.MULTILINE))
    found = {mark: _split("\n".join(lines), mark, quoted) for mark in DELIMITERS if mark in lines[0]}
    if kind == "inter" or not found:
        found = {"\t": _split("\n".join(lines), "\t", quoted)}
    good = {mark: rows for mark, rows in found.items() if _even(rows)}
    comma = [mark for mark in good if mark != "," and _decimal_commas(good[mark])]
    if comma:
        good.pop(",", None)
    if len(good) > 1:
        good.pop(" ", None)
    if headed:
        named = {mark: rows for mark, rows in good.items() if _names(rows[0])}
        good = named or good
    if good:
        best = max(good, key=lambda mark: (len(good[mark][0]), -DELIMITERS.index(mark)))
    else:
        best = next((mark for mark in ("\t", ",", ";", "|", " ") if mark in found), next(iter(found)))
    return Layout(best, found[best], quoted=quoted, comma=best in comma)


def _split(text: str, delimiter: str, quoted: bool) -> list[list[str]]:
    lines = text.splitlines(keepends=True)
    reader = (
        csv.reader(lines, delimiter=delimiter)
        if quoted
        else csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    )
    try:
        return [[value.strip() for value in row] for row in reader if any(value.strip() for value in row)]
    except csv.Error:
        return [[value.strip() for value in line.split(delimiter)] for line in text.splitlines()]


def _even(rows: list[list[str]]) -> bool:
    """Return whether nearly all rows have as many values as the first, and more than one."""
    count = len(rows[0])
    return count > 1 and sum(len(row) == count for row in rows) >= CERTAIN * len(rows)


def _decimal_commas(rows: list[list[str]]) -> bool:
    """Return whether commas occur, and each in a number."""
    commas = [value for row in rows for value in row if "," in value]
    return bool(commas) and all(re.fullmatch("[+-]?[0-9]+,[0-9]+", value) for value in commas)


def _names(first: list[str]) -> bool:
    names = set(map(plain, first))
    return bool(names & set(KNOWN["user"]) and names & set(KNOWN["item"]))


def _is_header(first: list[str], rest: list[list[str]], used: list[int]) -> bool:
    """Return whether the first row names the columns: by the names, or since only it has words where numbers are."""
    if any(at >= len(first) for at in used):
        return False
    if _names([first[at] for at in used]):
        return True
    for at in used:
        column = [row[at] for row in rest if len(row) == len(first) and row[at]]
        if column and first[at] and times.recognise(first[at : at + 1], day_first=False) is None:
            forms = {times.recognise([value], day_first=False) for value in column[:50]}
            if None not in forms:
                return True
    return False


def _fields(sample: Sample, columns: dict[str, str], day_first: bool | None, *, comma: bool = False) -> Fields:
    named = {ROLES[role]: column for role, column in columns.items()}
    form = times.NUMBERS
    if "time" in columns:
        values = sample.values.get(columns["time"], [])
        if comma:
            values = [re.sub(r"^([^,]*),([^,]*)$", r"\1.\2", value) for value in values]
        form = times.recognise(values, day_first=day_first) or (
            times.ISO if any(map(_meant, values)) else times.NUMBERS
        )
        if form in times.COMPACTS:
            sample.notes.append(f"its times are read as dates such as {next(filter(_meant, values))}.")
    return Fields(named, times=form, comma=comma)


def _meant(value: str) -> bool:
    return value.strip().lower() not in times.MISSING


def _described(log: Log, columns: dict[str, str], sample: Sample) -> UserFile:
    notes = [*sample.notes, *_missing_ids(log)]
    if "time" not in columns:
        return UserFile(replace(log, notes=tuple(notes)), columns, timed=False, unit="rows")
    whole = log[TIMESTAMP] if log.time_scale == 1 else log[TIMESTAMP] // log.time_scale
    counts = times.units_of(whole)
    if len(counts) > 1:
        words = ", ".join(f"{count:,} like {unit}" for unit, count in counts.items())
        notes.append(f"its times are in different units by their size ({words}), and so in no right order.")
    unit = finer(times.unit_of(whole), log.time_scale)
    return UserFile(replace(log, notes=tuple(notes)), columns, timed=True, unit=unit)


def _missing_ids(log: Log) -> list[str]:
    """Note ids that many rows have, and that elsewhere stand for none."""
    notes = []
    for name, word, raw in ((USER, "user", log.users), (ITEM, "item", log.items)):
        known = pc.is_in(pc.utf8_lower(raw), pa.array(sorted(times.MISSING))).to_numpy(zero_copy_only=False)
        for code in np.flatnonzero(known):
            rows = int((log[name] == code).sum())
            if rows >= max(2, len(log) // 1000):
                notes.append(f"{rows:,} rows have the {word} '{raw[int(code)]}', which may stand for none.")
    return notes


def _in_order(found: UserFile, where: str, chosen: dict[str, str]) -> UserFile:
    """Settle what orders the rows where there are positions as well as times.

    Raises:
        UsageError: the two disagree, and the user has not said which counts.
    """
    log = found.log
    if POSITION not in log or not found.timed:
        return found
    position, time = found.columns["position"], found.columns["time"]
    order = np.lexsort((log[POSITION], log[USER]))
    users, moments = log[USER][order], log[TIMESTAMP][order]
    back = np.flatnonzero((users[1:] == users[:-1]) & (moments[1:] < moments[:-1]))
    if not len(back):
        return found
    if "position" in chosen:
        note = f"it is in the order of {position}, from which that of {time} differs in {len(back):,} places."
        return replace(found, log=replace(log, notes=(*log.notes, note)))
    user = users[back[0]]
    mine = np.flatnonzero(log[USER] == user)
    by = {
        name: ", ".join(log.items.take(log[ITEM][mine[np.argsort(log[key][mine], kind="stable")]][:5]).to_pylist())
        for name, key in ((time, TIMESTAMP), (position, POSITION))
    }
    raise UsageError(
        f"{where}: {time} and {position} order the rows differently: user {log.users[int(user)]} has "
        f"{by[time]} by {time}, and {by[position]} by {position}.",
        hint=f"Say which counts: --columns time={time},position= or --columns position={position}.",
    )
