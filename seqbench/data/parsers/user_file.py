"""The user's own files: CSV, TSV, JSON lines, Parquet, RecBole's .inter, and "user item item …" lines.

The columns are named by the user, or recognised by the names that people give them.
"""

import csv
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqbench.columns import ITEM, RATING, ROLES, SPLIT, TIMESTAMP, USER
from seqbench.data.log import Log, finer
from seqbench.data.parsers import delimited, objects, recbole, sequences
from seqbench.data.parsers.delimited import Lines, typed
from seqbench.data.parsers.rows import Block, Collector, Fields, empty, judge
from seqbench.errors import SeqbenchError, UsageError

# Names in lower case, without spaces, "_" and "-".
KNOWN = {
    "user": ("user", "userid", "uid", "reviewerid", "username", "sessionid", "session", "customerid", "visitorid"),
    "item": ("item", "itemid", "iid", "movieid", "parentasin", "asin", "productid", "businessid", "artistid", "sid"),
    "time": ("timestamp", "time", "unixreviewtime", "date", "datetime", "ts", "unixtime"),
    "rating": ("rating", "overall", "stars", "score"),
    "position": ("position", "pos"),
    "split": ("split",),
}

TEXT = ("csv", "tsv", "tab", "txt", "dat", "data", "inter")
JSON = ("json", "jsonl", "ndjson")
DELIMITERS = ("\t", ",", ";", "|", " ")

# Times of our era: seconds have 10 digits, milliseconds 13, and so on.
ERA = r"[1-9][0-9]{8,9}|1[0-9]{12}"  # numbers that are likely to be seconds or milliseconds
UNITS = ((10**11, "seconds"), (10**14, "milliseconds"), (10**17, "microseconds"))

ROWS = 1 << 20  # of a Parquet file that are looked at together


@dataclass(frozen=True)
class UserFile:
    """The rows of a user's own file, and what they are."""

    log: Log
    columns: dict[str, str]  # role → column; empty where the format has no names
    timed: bool
    unit: str  # of the times


def ending(path: Path) -> str:
    """What follows the last dot of a file's name, without .gz."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def interactions(stream: BinaryIO, where: str, path: Path, chosen: dict[str, str], *, ratings: bool) -> UserFile:
    """Read a user's own file.

    Args:
        stream: its content, unpacked.
        path: its name tells the format; Parquet, which cannot be read from front to back, is read from there.
        chosen: role → column, or its number from 1 in a file without a header; all others are recognised.
        ratings: whether the ratings are needed.

    Raises:
        UsageError: a column is not there, or it is not clear which is meant.
        SeqbenchError: the file is empty, or is malformed past the limit.
    """
    kind = ending(path)
    if kind == "parquet":
        return _parquet(path, where, chosen, ratings)
    if kind in JSON:
        return _json(Lines(stream, where), where, chosen, ratings)
    if kind in TEXT:
        return _text(stream, where, chosen, ratings, kind)
    raise UsageError(
        f"{where}: what kind of file this is cannot be told from its name.",
        hint=f"Name it .parquet, {', '.join(f'.{name}' for name in TEXT + JSON)}; .gz may follow.",
    )


def _text(stream: BinaryIO, where: str, chosen: dict[str, str], ratings: bool, kind: str) -> UserFile:
    lines = Lines(stream, where, quoted=kind == "csv")
    first = lines.peek()
    if not first.strip():
        raise empty(where)
    separator = b"::" if "::" in first else None
    delimiter = "\t" if separator else next((mark for mark in DELIMITERS if mark in first), "\t")

    def split(line: str) -> list[str]:
        line = line.replace("::", "\t") if separator else line
        try:
            return [value.strip() for value in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error as error:
            raise SeqbenchError(
                f"{where}: its first lines cannot be read ({error}).",
                hint="End every line with a line feed (LF or CR LF).",
            ) from error

    names = split(first)
    headless = bool(chosen) and all(column.isdigit() for column in chosen.values())
    if headless:
        names = [str(number) for number in range(1, len(names) + 1)]
    elif not chosen and kind == "txt" and all(name.isdigit() for name in names):
        _check_sequences(where, [names, *map(split, _coming(stream))])
        return UserFile(sequences.read(lines, where), {}, timed=False, unit="rows")
    elif kind == "inter":
        names = recbole.header(lines, where)
    else:
        lines.header()
    columns = _columns(where, names, chosen, ratings)
    written = split(lines.peek())
    at = names.index(columns["time"]) if "time" in columns else len(written)
    fields = _fields(columns, _times(written[at] if at < len(written) else ""))
    log = delimited.interactions(
        lines, where, names, fields, delimiter=delimiter, separator=separator, quoted=kind == "csv"
    )
    return _described(log, columns)


def _coming(stream: BinaryIO) -> list[str]:
    """Whole lines that a buffered stream has at hand, which stay to be read."""
    ahead = cast(io.BufferedReader, stream).peek()
    return ahead[: ahead.rfind(b"\n") + 1].decode("utf-8", errors="replace").splitlines()


def _check_sequences(where: str, rows: list[list[str]]) -> None:
    """Lines "user item item …" have no header, and neither have many files of "user item rating time".

    Raises:
        UsageError: every row has three or four numbers, the last of which is a time of our era.
    """
    count = len(rows[0])
    if count in (3, 4) and all(len(row) == count and re.fullmatch(ERA, row[-1]) for row in rows):
        raise UsageError(
            f"{where}: its lines end with a time, so they are no sequences 'user item item …'.",
            hint=f"Say which column is which: --columns user=1,item=2,time={count}.",
        )


def _json(lines: Lines, where: str, chosen: dict[str, str], ratings: bool) -> UserFile:
    first = lines.peek()
    if not first.strip():
        raise empty(where)
    try:
        entry = json.loads(first)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise SeqbenchError(
            f"{where}: its first line is no JSON object of at most {delimited.HEADER_LIMIT:,} bytes.",
            hint='Give one object per line: {"user": …, "item": …}.',
        )
    columns = _columns(where, list(entry), chosen, ratings)
    whole = tuple(ROLES[role] for role in ("user", "item") if isinstance(entry[columns[role]], int))
    fields = _fields(columns, _times(str(entry[columns["time"]]) if "time" in columns else ""))
    return _described(objects.json_lines(lines, where, fields, whole_ids=whole), columns)


def _parquet(path: Path, where: str, chosen: dict[str, str], ratings: bool) -> UserFile:
    collector = Collector(where)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = _columns(where, schema.names, chosen, ratings)
            kinds = {role: schema.field(name).type for role, name in columns.items()}
            timestamps = "time" in kinds and pa.types.is_temporal(kinds["time"])
            texts = "time" in kinds and (pa.types.is_string(kinds["time"]) or pa.types.is_large_string(kinds["time"]))
            fields = _fields(columns, "iso" if texts else "whole" if timestamps else "decimal")
            unit = _unit(file, columns["time"]) if timestamps else "ms"
            for batch in file.iter_batches(ROWS, columns=list(columns.values())):
                table = pa.table(batch)
                values = {name: _plain(table.column(column), unit) for name, column in fields.columns.items()}
                if (block := _at_once(values)) is not None:
                    collector.add(block)
                    continue
                numbers = np.arange(collector.rows + 1, collector.rows + 1 + len(table))
                judge({name: _words(column) for name, column in values.items()}, fields, numbers, collector)
                collector.check_hope()
    except (pa.ArrowException, OSError) as error:
        raise SeqbenchError(f"{where} cannot be read as Parquet: {error}.", hint="Write the file again.") from error
    found = _described(collector.finish(), columns)
    units = {"ms": "milliseconds", "us": "microseconds"}
    return replace(found, unit=units[unit]) if timestamps else found


def _unit(file: pq.ParquetFile, time: str) -> str:
    """The unit that the times of a file are read in: "ms", or "us" if that would make different times one."""
    for batch in file.iter_batches(ROWS, columns=[time]):
        moments = batch.column(0).cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        if (pc.fill_null(moments, 0).to_numpy() % 1000).any():
            return "us"
    return "ms"


def _plain(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Dictionaries, wide strings, dates and whole numbers written as floats, as plain columns."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_temporal(column.type):
        return column.cast(pa.timestamp(unit), safe=False).cast(pa.int64())
    if pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        if pc.all(pc.equal(column, pc.trunc(column))).as_py() and pc.all(pc.less(pc.abs(column), 2.0**53)).as_py():
            return column.cast(pa.int64())
    return column


def _at_once(values: dict[str, pa.ChunkedArray]) -> Block | None:
    ready = {}
    for name, column in values.items():
        if name in (USER, ITEM, SPLIT) and pa.types.is_string(column.type):
            column = column.dictionary_encode()
        elif name == RATING and pa.types.is_integer(column.type):
            column = column.cast(pa.float64())
        elif not (pa.types.is_integer(column.type) or (name == RATING and pa.types.is_floating(column.type))):
            if not (name == TIMESTAMP and pa.types.is_string(column.type)):
                return None
        elif name == SPLIT:
            return None
        ready[name] = column
    try:
        return typed(ready)
    except pa.ArrowInvalid:
        return None


def _words(column: pa.ChunkedArray) -> pa.Array:
    """A column as text; what is missing is empty."""
    texts = column.cast(pa.string()) if not pa.types.is_null(column.type) else pa.nulls(len(column), pa.string())
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return pc.fill_null(texts, "")


def _columns(where: str, names: list[str], chosen: dict[str, str], ratings: bool) -> dict[str, str]:
    """Role → column: as chosen, else as recognised."""
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    found: dict[str, str] = {}
    for role, name in chosen.items():
        if name not in names:
            raise UsageError(
                f"{where} has no column '{name}' (it has {listed}).",
                hint="--columns user=NAME,item=NAME,time=NAME; numbers from 1 where there is no header.",
            )
        found[role] = name
    for role in ROLES:
        if role in found or (role == "rating" and not ratings):
            continue
        free = [name for name in names if name not in found.values()]
        known = [name for name in free if re.sub(r"[ _-]", "", name.lower()) in KNOWN[role]]
        if len(known) > 1:
            raise UsageError(
                f"{where}: which column is the {role}, {' or '.join(known)}?", hint=f"Say --columns {role}=NAME."
            )
        if known:
            found[role] = known[0]
        elif role in ("user", "item"):
            raise UsageError(
                f"{where}: no column is recognised as the {role} (it has {listed}).",
                hint="Say --columns user=NAME,item=NAME,time=NAME; numbers from 1 where there is no header.",
            )
    if ratings and "rating" not in found:
        raise UsageError(f"{where} has no ratings (it has {listed}).", hint="Say --columns rating=NAME.")
    if len(set(names)) < len(names):
        raise UsageError(f"{where}: two columns have the same name (it has {listed}).")
    return found


def _fields(columns: dict[str, str], times: str) -> Fields:
    return Fields({ROLES[role]: column for role, column in columns.items()}, times=times)


def _times(written: str) -> str:
    """How the times of a file are written, by the first of them."""
    if written.isdigit() and len(written) > 15:
        return "whole"
    try:
        float(written)
        return "decimal"
    except ValueError:
        return "iso" if written else "decimal"


def _described(log: Log, columns: dict[str, str]) -> UserFile:
    if "time" not in columns:
        return UserFile(log, columns, timed=False, unit="rows")
    top = int(log[TIMESTAMP].max(initial=0)) // log.time_scale
    unit = next((unit for limit, unit in UNITS if top < limit), "nanoseconds")
    return UserFile(log, columns, timed=True, unit=finer(unit, log.time_scale))
