"""Delimited text in blocks of whole lines: read as numbers at once where that works, line by line where not."""

import codecs
import io
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from seqbench.columns import ITEM, POSITION, RATING, SPLIT, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers.rows import FRACTION, LARGEST_ID, Block, Collector, Fields, empty, judge, parts_of, trimmed
from seqbench.data.parsers.times import ISO, LARGEST_EXACT, iso_in_utc, parse, split_floats
from seqbench.errors import SeqbenchError

BLOCK = 4 << 20  # bytes that are looked at together
THREADS = 4  # that parse; reading and hashing, which one thread does, keep no more of them busy
HEADER_LIMIT = 1 << 16  # bytes; a longer first line is not a header
LINE_LIMIT = 64 << 20  # bytes; a longer line is not a row

# 0x where nothing of a word comes before it, looked at last: a pattern that begins with a letter is searched for fast.
HEXADECIMAL = re.compile(rb"0[xX](?<![0-9A-Za-z]0[xX])")

SAMPLE = 1 << 18  # bytes at the beginning of a file that tell how it is written


class Lines:
    """A binary stream as blocks of whole lines, and how many lines came before each."""

    def __init__(self, stream: BinaryIO, where: str, *, quoted: bool = False) -> None:
        buffered = stream if hasattr(stream, "peek") else io.BufferedReader(cast(io.RawIOBase, stream))
        self._stream = cast(io.BufferedReader, buffered)
        self._where = where
        self.quoted = quoted  # a line feed between two quotes does not end a row
        self._rest = b""
        self._begun = False
        self.lines = 0  # consumed so far

    def sample(self) -> str:
        """Return the lines at hand, which stay to be read; for files that are not begun.

        Raises:
            SeqbenchError: the file is in UTF-16.
        """
        ahead = self._stream.peek()
        if ahead[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise SeqbenchError(
                f"{self._where} is UTF-16.", hint=f"Convert it: iconv -f UTF-16 -t UTF-8 {self._where} > FILE"
            )
        # Less than a buffer may be all of the file, and then its last line need not end.
        whole = ahead if len(ahead) < SAMPLE else ahead[: ahead.rfind(b"\n") + 1]
        return whole[:SAMPLE].removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")

    def peek(self) -> str:
        """Return the next line that is not blank, which stays to be read; empty at the end of the file."""
        while not self._rest:
            line = self._stream.readline(HEADER_LIMIT)
            if not self._begun:
                line = line.removeprefix(codecs.BOM_UTF8)
            self._begun = True
            if not line:
                break
            if line.strip():
                self._rest = line
            else:
                self.lines += 1
        return self._rest.decode("utf-8", errors="replace").rstrip("\r\n")

    def header(self) -> str:
        """Consume the first line that is not blank.

        Raises:
            SeqbenchError: the file is empty.
        """
        line = self.peek()
        if not line.strip():
            raise empty(self._where)
        self._rest = b""
        self.lines += 1
        return line

    def rest(self) -> bytes:
        """Return everything that is left."""
        return self._rest + self._stream.read()

    def __iter__(self) -> Iterator[bytes]:
        """Yield blocks that end with a line feed, but for the last. `lines` is updated when the next one is asked for.

        The next block is read, unpacked and hashed while one is looked at.

        Raises:
            SeqbenchError: a line is absurdly long, or a quotation mark is never closed.
        """
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._next)
            while block := ahead.result():
                ahead = pool.submit(self._next)
                yield block
                self.lines += _count(block, b"\n")

    def _next(self) -> bytes:
        data = self._stream.read(BLOCK)
        block = self._rest + data + (self._stream.readline(LINE_LIMIT) if data else b"")
        self._rest = b""
        if not self._begun:
            block = block.removeprefix(codecs.BOM_UTF8)
            self._begun = True
        if self.quoted and _count(block, b'"') % 2:
            pieces, size, is_open = [block], len(block), True
            while is_open:
                more = self._stream.readline(LINE_LIMIT)
                if not more or size > BLOCK + LINE_LIMIT:
                    raise SeqbenchError(
                        f"{self._where}: a quotation mark after line {self.lines:,} is never closed.",
                        hint="Close it, or double it if it belongs to the value.",
                    )
                pieces.append(more)
                size += len(more)
                is_open = more.count(b'"') % 2 == 0
            block = b"".join(pieces)
        if len(block) > LINE_LIMIT and not block.endswith(b"\n") and self._stream.read(1):
            raise SeqbenchError(
                f"{self._where}: a line after line {self.lines:,} does not end within {LINE_LIMIT:,} bytes.",
                hint="This is no file of interactions. Compare it with the publisher's.",
            )
        return block


def one_piece(block: bytes) -> int:
    """Return the block_size with which pyarrow parses all of a block as one piece, whose columns need not be joined."""
    return max(len(block), 1 << 16)


def _count(block: bytes, byte: bytes) -> int:
    """Count how often a byte occurs; for frequent ones this is faster than bytes.count."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == byte[0]))


def parsed(lines: Lines, parse: Callable[[bytes], Block | None]) -> Iterator[tuple[bytes, int, Block | None]]:
    """Yield every block, how many lines came before it, and what `parse` makes of it; several threads parse ahead."""
    threads = min(THREADS, pa.cpu_count())
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[bytes, int, Future[Block | None]]] = deque()
        for block in lines:
            ahead.append((block, lines.lines, pool.submit(parse, block)))
            if len(ahead) > threads:
                block, before, columns = ahead.popleft()
                yield block, before, columns.result()
        for block, before, columns in ahead:
            yield block, before, columns.result()


def interactions(
    lines: Lines,
    where: str,
    names: list[str],
    fields: Fields,
    *,
    delimiter: str = "\t",
    separator: bytes | None = None,
) -> Log:
    """Read the rows that are left in `lines`; values may be put in double quotes if `lines.quoted`.

    Args:
        names: all columns of the file, in order.
        fields: the columns that are read.
        delimiter: one character between two values.
        separator: several bytes in the file that stand for the delimiter.

    Raises:
        SeqbenchError: the file is empty, is no delimited text, or is malformed past MALFORMED_LIMIT.
    """
    layout = Layout(names, fields, delimiter, lines.quoted)

    def delimited(block: bytes) -> bytes:
        return block.replace(separator, delimiter.encode()) if separator else block

    collector = Collector(where)
    for block, before, columns in parsed(lines, lambda block: _at_once(delimited(block), layout)):
        if columns is not None:
            collector.add(columns)
        else:
            _one_by_one(delimited(block), where, layout, before, collector)
            collector.check_hope()
    return collector.finish()


@dataclass
class Layout:
    """How the rows of a file are written, and how far the reading of numbers has got."""

    names: list[str]
    fields: Fields
    delimiter: str
    quoted: bool
    number: int = 0  # the first of NUMBER_TYPES that all times so far could be read as

    def parse_options(self, **options: Any) -> pyarrow.csv.ParseOptions:
        """Return what pyarrow needs to know."""
        return pyarrow.csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if self.quoted else False,
            newlines_in_values=self.quoted,
            **options,
        )


# Whole numbers are the rule. Floats hold what is whole, such as 8.8e8; fractions are read from the text.
NUMBER_TYPES = (pa.int64(), pa.float64(), pa.string())


def _at_once(block: bytes, layout: Layout) -> Block | None:
    """Read the columns of a block in which every row is as it should be, or return None."""
    if (b"x" in block or b"X" in block) and HEXADECIMAL.search(block):
        return None  # would be read as a number
    kind = layout.fields.times.kind
    if kind != "number":
        return _typed_at_once(block, layout, pa.string() if kind == "date" else pa.int64())
    for place in range(layout.number, len(NUMBER_TYPES)):
        found = _typed_at_once(block, layout, NUMBER_TYPES[place])
        if found is not None:
            layout.number = max(layout.number, place)
            return found
    return None


def _typed_at_once(block: bytes, layout: Layout, time: pa.DataType) -> Block | None:
    fields = layout.fields
    text = pa.dictionary(pa.int32(), pa.string())
    identifier = pa.int64() if fields.whole_ids else text
    kinds = {
        USER: identifier,
        ITEM: identifier,
        TIMESTAMP: time,
        RATING: pa.float64(),
        POSITION: pa.int64(),
        SPLIT: text,
    }
    types = {column: kinds[name] for name, column in fields.columns.items()}
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(
                column_names=layout.names, use_threads=False, block_size=one_piece(block)
            ),
            parse_options=layout.parse_options(),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=[],
                strings_can_be_null=False,
                decimal_point="," if fields.comma else ".",
            ),
        )
        return typed({name: table.column(column) for name, column in fields.columns.items()}, fields)
    except pa.ArrowInvalid:
        return None


def typed(columns: dict[str, pa.ChunkedArray], fields: Fields, *, floats: bool = False) -> Block | None:
    """Return columns as the collector takes them, or None if a value cannot be used.

    Args:
        columns: whose texts are UTF-8.
        floats: whether fractions of times are floats in the source, and not text that a float may not hold.
    """
    found: Block = {}
    for name, column in columns.items():
        if column.null_count:
            return None
        values: Any
        if name == TIMESTAMP:
            times = _times(column, fields, floats)
            if times is None:
                return None
            found |= times
        elif name == SPLIT:
            found[name], usable = parts_of(column.unify_dictionaries().combine_chunks())
            if not usable.all():
                return None
        elif pa.types.is_dictionary(column.type):
            values = column.unify_dictionaries().combine_chunks()
            values = trimmed(values)
            if (pc.min(pc.binary_length(values.dictionary)).as_py() or 0) == 0 and len(values):
                return None
            if name in fields.header and pc.index(values.dictionary, fields.header[name]).as_py() >= 0:
                return None
            found[name] = values
        elif name == RATING:
            found[name] = column.to_numpy()
            if not np.isfinite(found[name]).all():
                return None
        else:
            values = column.to_numpy()
            least = 0 if name in (USER, ITEM) else -LARGEST_ID
            if len(values) and not (values.min() >= least and values.max() <= LARGEST_ID):
                return None
            found[name] = values.astype(np.int64, copy=False)
    return found


def _times(column: pa.ChunkedArray, fields: Fields, floats: bool) -> Block | None:
    if pa.types.is_string(column.type):
        texts = column.combine_chunks()
        quick = iso_in_utc(texts) if fields.times is ISO else None
        if quick is None:
            whole, fractions, usable = parse(texts, fields.times)
            if not usable.all():
                return None
        else:
            whole, fractions = quick
    elif pa.types.is_floating(column.type):
        values = column.to_numpy()
        if not (np.isfinite(values).all() and (np.abs(values) <= LARGEST_EXACT).all()):
            return None
        whole, fractions = split_floats(values)
        if fractions.any() and not floats:
            return None
    else:
        return {TIMESTAMP: column.to_numpy().astype(np.int64, copy=False)}
    return {TIMESTAMP: whole, FRACTION: fractions} if fractions.any() else {TIMESTAMP: whole}


def _one_by_one(block: bytes, where: str, layout: Layout, before: int, collector: Collector) -> None:
    """Split a block into usable rows and others; `before` lines of the file came earlier."""
    misfits: list[int] = []  # rows with a wrong number of fields, counted from 1 in this block
    blank: list[int] = []

    def misfit(row: pyarrow.csv.InvalidRow) -> str:
        (misfits if row.text.strip() else blank).append(row.number)
        return "skip"

    columns = layout.fields.columns
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            # Row numbers are only known when one thread reads. Any bytes are ISO-8859-1, so that one row that
            # is not UTF-8 does not hide the others; `_utf8` undoes it.
            read_options=pyarrow.csv.ReadOptions(
                column_names=layout.names, use_threads=False, encoding="iso-8859-1", block_size=2 * one_piece(block)
            ),
            parse_options=layout.parse_options(ignore_empty_lines=False, invalid_row_handler=misfit),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(layout.names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        shown = {"\t": "TAB", ",": "comma", " ": "space"}.get(layout.delimiter, f"'{layout.delimiter}'")
        raise SeqbenchError(
            f"{where} is not {shown}-separated text: {error}.",
            hint="Compare it with the publisher's file, or fetch it again.",
        ) from error
    collector.reject("wrong number of fields", before + np.array(misfits, np.int64))
    # A kept row stands as many lines further down as there are misfits before it.
    wrong = np.array(sorted(misfits + blank), np.int64)
    positions = np.arange(table.num_rows)
    shift = np.searchsorted(wrong - np.arange(1, len(wrong) + 1), positions, side="right")
    texts = {name: _utf8(table.column(column)) for name, column in columns.items()}
    if len(positions):
        nothing = [pc.match_substring_regex(column, r"^\s*$").to_numpy() for column in table.columns]
        blank_rows = np.logical_and.reduce(nothing)
        judge(texts, layout.fields, before + positions + shift + 1, collector, blank_rows)


def _utf8(values: pa.ChunkedArray) -> pa.Array:
    """Bytes that were read as ISO-8859-1, read as UTF-8; null where they are not."""
    encoded = values.dictionary_encode().unify_dictionaries().combine_chunks()
    read = pa.array([_reread(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return read.take(encoded.indices)


def _reread(value: str) -> str | None:
    try:
        return value.encode("iso-8859-1").decode("utf-8")
    except UnicodeDecodeError:
        return None
