"""Delimited text in blocks of whole lines: read as numbers at once where that works, line by line where not."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from seqbench.columns import ITEM, POSITION, RATING, SPLIT, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers.rows import (
    LARGEST_EXACT,
    LARGEST_WHOLE,
    Block,
    Collector,
    Fields,
    empty,
    iso_seconds,
    judge,
    parts_of,
    whole_and_fraction,
)
from seqbench.errors import SeqbenchError

BLOCK = 4 << 20  # bytes that are looked at together
THREADS = 4  # that parse; reading and hashing, which one thread does, keep no more of them busy
HEADER_LIMIT = 1 << 16  # bytes; a longer first line is not a header
LINE_LIMIT = 64 << 20  # bytes; a longer line is not a row

# 0x where nothing of a word comes before it, looked at last: a pattern that begins with a letter is searched for fast.
HEXADECIMAL = re.compile(rb"0[xX](?<![0-9A-Za-z]0[xX])")

BOM = b"\xef\xbb\xbf"  # some editors put it before the first value


class Lines:
    """A binary stream as blocks of whole lines, and how many lines came before each."""

    def __init__(self, stream: BinaryIO, where: str, *, quoted: bool = False) -> None:
        self._stream = stream
        self._where = where
        self._quoted = quoted  # a line feed between two quotes does not end a row
        self._rest = b""
        self._begun = False
        self.lines = 0  # consumed so far

    def peek(self) -> str:
        """The next line, which stays to be read."""
        if not self._rest:
            line = self._stream.readline(HEADER_LIMIT)
            self._rest = line if self._begun else line.removeprefix(BOM)
            self._begun = True
        return self._rest.decode("utf-8", errors="replace").rstrip("\r\n")

    def header(self) -> str:
        """Consume the first line.

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
        """Everything that is left."""
        return self._rest + self._stream.read()

    def __iter__(self) -> Iterator[bytes]:
        """Blocks that end with a line feed, but for the last. `lines` is updated when the next one is asked for.

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
            block = block.removeprefix(BOM)
            self._begun = True
        if self._quoted and _count(block, b'"') % 2:
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
    """The block_size with which pyarrow parses all of a block as one piece, whose columns need not be joined."""
    return max(len(block), 1 << 16)


def _count(block: bytes, byte: bytes) -> int:
    """How often a byte occurs; for frequent ones this is faster than bytes.count."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == byte[0]))


def parsed(lines: Lines, parse: Callable[[bytes], Block | None]) -> Iterator[tuple[bytes, int, Block | None]]:
    """Every block, how many lines came before it, and what `parse` makes of it; several threads parse ahead."""
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
    quoted: bool = False,
) -> Log:
    """Read the rows that are left in `lines`.

    Args:
        names: all columns of the file, in order.
        fields: the columns that are read.
        delimiter: one character between two values.
        separator: several bytes in the file that stand for the delimiter.
        quoted: whether values may be put in double quotes.

    Raises:
        SeqbenchError: the file is empty, is no delimited text, or is malformed past MALFORMED_LIMIT.
    """

    def delimited(block: bytes) -> bytes:
        return block.replace(separator, delimiter.encode()) if separator else block

    def parse(block: bytes) -> Block | None:
        return _at_once(delimited(block), names, fields, delimiter, quoted)

    collector = Collector(where)
    for block, before, columns in parsed(lines, parse):
        if columns is not None:
            collector.add(columns)
        else:
            _one_by_one(delimited(block), where, names, fields, delimiter, quoted, before, collector)
            collector.check_hope()
    return collector.finish()


def _at_once(block: bytes, names: list[str], fields: Fields, delimiter: str, quoted: bool) -> Block | None:
    """The columns of a block in which every row is as it should be, or None."""
    text = pa.dictionary(pa.int32(), pa.string())
    identifier = pa.int64() if fields.whole_ids else text
    numbers = {"whole": pa.int64(), "decimal": pa.float64(), "iso": pa.string()}
    kinds = {
        USER: identifier,
        ITEM: identifier,
        TIMESTAMP: numbers[fields.times],
        RATING: pa.float64(),
        POSITION: pa.int64(),
        SPLIT: text,
    }
    types = {column: kinds[name] for name, column in fields.columns.items()}
    if (b"x" in block or b"X" in block) and HEXADECIMAL.search(block):
        return None  # would be read as a number
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=one_piece(block)),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
            ),
        )
        return typed({name: table.column(column) for name, column in fields.columns.items()})
    except pa.ArrowInvalid:
        return None


def typed(columns: dict[str, pa.ChunkedArray]) -> Block | None:
    """Columns as the collector takes them, or None if a value cannot be used.

    Raises:
        pa.ArrowInvalid: a date cannot be read.
    """
    found: Block = {}
    for name, column in columns.items():
        if column.null_count:
            return None
        if name == SPLIT:
            found[name], usable = parts_of(column.unify_dictionaries().combine_chunks())
            if not usable.all():
                return None
        elif pa.types.is_dictionary(column.type):
            values = column.unify_dictionaries().combine_chunks()
            values.dictionary.validate(full=True)  # JSON is not checked for being UTF-8
            if pc.any(pc.equal(values.dictionary, "")).as_py():
                return None
            found[name] = values
        elif pa.types.is_string(column.type):
            found |= whole_and_fraction(iso_seconds(column.combine_chunks()))
        elif name == RATING:
            found[name] = column.to_numpy()
            if not np.isfinite(found[name]).all():
                return None
        else:
            values = column.to_numpy()
            largest = LARGEST_EXACT if pa.types.is_floating(column.type) else LARGEST_WHOLE
            if len(values) and not (values.min() >= 0 and values.max() <= largest):
                return None
            if name == TIMESTAMP:
                found |= whole_and_fraction(values)
            else:
                found[name] = values.astype(np.int64, copy=False)
    return found


def _one_by_one(
    block: bytes,
    where: str,
    names: list[str],
    fields: Fields,
    delimiter: str,
    quoted: bool,
    before: int,
    collector: Collector,
) -> None:
    """Split a block into usable rows and others; `before` lines of the file came earlier."""
    misfits: list[int] = []  # rows with a wrong number of fields, counted from 1 in this block

    def misfit(row: pyarrow.csv.InvalidRow) -> str:
        misfits.append(row.number)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            # Row numbers are only known when one thread reads. Any bytes are ISO-8859-1, so that one row that
            # is not UTF-8 does not hide the others; `_utf8` undoes it.
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, use_threads=False, encoding="iso-8859-1", block_size=2 * one_piece(block)
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
                invalid_row_handler=misfit,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=list(fields.columns.values()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        shown = {"\t": "TAB", ",": "comma", " ": "space"}.get(delimiter, f"'{delimiter}'")
        raise SeqbenchError(
            f"{where} is not {shown}-separated text: {error}.",
            hint="Compare it with the publisher's file, or fetch it again.",
        ) from error
    wrong = np.array(misfits, np.int64)
    collector.reject("wrong number of fields", before + wrong)
    # A kept row stands as many lines further down as there are misfits before it.
    positions = np.arange(table.num_rows)
    shift = np.searchsorted(wrong - np.arange(1, len(wrong) + 1), positions, side="right")
    texts = {name: _utf8(table.column(column)) for name, column in fields.columns.items()}
    judge(texts, fields, before + positions + shift + 1, collector)


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
