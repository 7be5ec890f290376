"""One object per line: JSON, or the Python literals of the older files, which are read and never evaluated."""

import ast
import json
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json

from seqbench.columns import ITEM, POSITION, RATING, SPLIT, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers.delimited import Lines, one_piece, parsed, typed
from seqbench.data.parsers.rows import Block, Collector, Fields, judge
from seqbench.errors import SeqbenchError

# A line of the Python-literal files: {u'username': u'x', 'hours': 0.3, 'early_access': False, …}.
_TEXT = r"""u?(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
_PLAIN = rf"{_TEXT}|-?[0-9]+(?:\.[0-9]+)?|True|False|None"
_WORDS = {"True": True, "False": False, "None": None}
_PAIR = re.compile(rf"({_TEXT}): ({_PLAIN})(?:, |\}}\Z)")

# Python's own parser takes 300 bytes of memory and more for a character of nested brackets.
LONGEST_LITERAL = 1 << 20  # characters; the longest review of Steam has 8,000 or so


def json_lines(lines: Lines, where: str, fields: Fields, *, whole_ids: tuple[str, ...] = ()) -> Log:
    """Read JSON, one object per line.

    Args:
        fields: the keys that are read; others are passed over.
        whole_ids: user_id, item_id, or both, where the values are written as numbers.

    Raises:
        SeqbenchError: the file is empty, or is malformed past MALFORMED_LIMIT.
    """
    collector = Collector(where)
    time = {"whole": pa.int64(), "number": pa.float64(), "date": pa.string()}[fields.times.kind]
    kinds = {
        USER: pa.int64() if USER in whole_ids else pa.string(),
        ITEM: pa.int64() if ITEM in whole_ids else pa.string(),
        TIMESTAMP: time,
        RATING: pa.float64(),
        POSITION: pa.int64(),
        SPLIT: pa.string(),
    }
    schema = pa.schema([(column, kinds[name]) for name, column in fields.columns.items()])
    for block, before, columns in parsed(lines, lambda block: _at_once(block, schema, fields)):
        if columns is not None:
            collector.add(columns)
        else:
            one_by_one(block, fields, exact_json, "not JSON", before, collector)
            collector.check_hope()
    return collector.finish()


def exact_json(line: str) -> Any:
    """Return the value of a line of JSON; numbers with a fraction stay the text that they are.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(line, parse_float=_fraction)


def _fraction(text: str) -> str:
    whole, _, rest = text.partition(".")
    return text if rest.strip("0") or "e" in text.lower() else whole  # 7.0 is 7, as an id


def literal_lines(stream: BinaryIO, where: str, fields: Fields) -> Log:
    """Read Python literals, one dictionary per line. JSON is understood too.

    Raises:
        SeqbenchError: the file is empty, or is malformed past MALFORMED_LIMIT.
    """
    lines = Lines(stream, where)
    collector = Collector(where)
    for block in lines:
        one_by_one(block, fields, literal, "not a Python literal", lines.lines, collector)
        collector.check_hope()
    return collector.finish()


def literal(line: str) -> Any:
    """Return the value of a Python literal.

    Flat dictionaries of text and numbers, which these files consist of, are taken apart by a pattern, in less than
    half the time of Python's own parser, which takes the rest.

    Raises:
        ValueError: it is none.
    """
    line = line.strip()
    if len(line) > LONGEST_LITERAL:
        raise ValueError(f"longer than {LONGEST_LITERAL:,} characters")
    if "\\" not in line and line.startswith("{"):
        pairs = _PAIR.findall(line, 1)
        # Nothing but the pairs, ": " in each, ", " between them, and the braces.
        if sum(len(key) + len(value) for key, value in pairs) + 4 * len(pairs) == len(line) and line.endswith("}"):
            return {_text(key): _plain(value) for key, value in pairs}
    try:
        return ast.literal_eval(line)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(str(error)) from error


def one_by_one(
    block: bytes,
    fields: Fields,
    parse: Callable[[str], Any],
    kind: str,
    before: int,
    collector: Collector,
) -> None:
    """Parse line by line; `before` lines of the file came earlier. What cannot be parsed is rejected as `kind`."""
    values: dict[str, list[str]] = {name: [] for name in fields.columns}
    numbers: list[int] = []
    rejected: dict[str, list[int]] = {}
    for number, line in enumerate(block.split(b"\n"), start=before + 1):
        if not line.strip():
            continue
        try:
            entry = parse(line.decode("utf-8"))
        except UnicodeDecodeError:
            rejected.setdefault("not UTF-8", []).append(number)
            continue
        except (ValueError, RecursionError):
            rejected.setdefault(kind, []).append(number)
            continue
        if not isinstance(entry, dict):
            rejected.setdefault(kind, []).append(number)
            continue
        for name, column in fields.columns.items():
            values[name].append(written(entry.get(column)))
        numbers.append(number)
    for why, found in rejected.items():
        collector.reject(why, found)
    texts = {name: pa.array(column, pa.string()) for name, column in values.items()}
    if numbers:
        judge(texts, fields, np.array(numbers), collector)


def _at_once(block: bytes, schema: pa.Schema, fields: Fields) -> Block | None:
    """Read the columns of a block in which every object is as it should be, or return None."""
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=one_piece(block)),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # pyarrow takes any bytes between quotes
        columns = {}
        for name, key in fields.columns.items():
            column = table.column(key)
            if name in (USER, ITEM, SPLIT):
                if pa.types.is_integer(column.type) and not fields.whole_ids:
                    column = column.cast(pa.string())
                column = column.dictionary_encode() if pa.types.is_string(column.type) else column
                if column.null_count:
                    return None
            columns[name] = column
        # Two objects on a line are two rows for pyarrow, but no line of JSON.
        if table.num_rows != sum(1 for line in block.split(b"\n") if line.strip()):
            return None
        return typed(columns, fields)
    except pa.ArrowInvalid:
        return None


def _text(written: str) -> str:
    return written.removeprefix("u")[1:-1]


def _plain(written: str) -> Any:
    if written[-1] in "'\"":
        return _text(written)
    return _WORDS.get(written, written)


def written(value: Any) -> str:
    """Write a value as text; empty where there is none that could be an id or a number."""
    if value is None or value != value or isinstance(value, bool | dict | list | tuple | set | bytes):
        return ""
    try:
        text = str(value)
        text.encode("utf-8")
    except ValueError:  # a number of thousands of digits, or half of a surrogate pair
        return ""
    return text


def titles(stream: BinaryIO) -> dict[str, str]:
    """Read Amazon metadata, JSON or Python literals: asin (or parent_asin) and title. Other lines are passed over."""
    found: dict[str, str] = {}
    try:
        for block in Lines(stream, "the item file"):
            for line in block.split(b"\n"):
                try:
                    text = line.decode("utf-8", errors="replace")
                    entry = json.loads(text) if text.startswith('{"') else literal(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(entry, dict):
                    item, title = written(entry.get("parent_asin") or entry.get("asin")), written(entry.get("title"))
                    if item and title.strip():
                        found[item] = title.strip()
    except SeqbenchError:
        return found
    return found
