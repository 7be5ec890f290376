"""What the parsers of delimited text share: reading columns, and finding the rows that cannot be used."""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from seqbench import columns
from seqbench.errors import SeqbenchError

WHOLE_NUMBER = r"^[0-9]{1,18}$"  # fits int64
DECIMAL_NUMBER = r"^[0-9]{1,15}(\.[0-9]*)?([eE]\+?[0-9]{1,2})?$"
LARGEST_EXACT = 2**53  # whole numbers up to here survive a float64

# A cut download damages its last line, an edited copy a handful. Past one row in a thousand the file is not
# what it claims to be, and counting on with the rest would give figures that nobody can reproduce.
MALFORMED_LIMIT = 0.001

SHOWN_LINES = 5


@dataclass(frozen=True)
class Malformed:
    """Rows of a raw file that cannot be used, for one reason."""

    kind: str
    rows: int
    lines: tuple[int, ...]  # the first few line numbers, from 1

    def __str__(self) -> str:
        more = ", …" if self.rows > len(self.lines) else ""
        return f"{self.kind}: {self.rows:,} (line {', '.join(map(str, self.lines))}{more})"


@dataclass(frozen=True)
class RawInteractions:
    """What a raw file says. `table` has columns.USER and ITEM (string), TIMESTAMP (int64), in file order."""

    table: pa.Table
    rows: int  # in the file, malformed ones included
    malformed: tuple[Malformed, ...] = ()


def interactions(
    stream: BinaryIO, where: str, names: list[str], used: tuple[str, str, str], *, decimal: bool, header: int
) -> RawInteractions:
    """Read TAB-separated rows from where `stream` stands.

    Args:
        stream: binary, UTF-8.
        where: names the file in messages.
        names: all columns of the file, in order.
        used: the columns that hold user, item and timestamp.
        decimal: whether timestamps may be written like 8.8e8 or 881250949.0 (fractions are cut off).
        header: lines of the file that were already consumed.

    Raises:
        SeqbenchError: the file is empty, is no delimited text, or is malformed past MALFORMED_LIMIT.
    """
    misfits: list[int] = []  # rows with a wrong number of fields, counted from 1 where the stream stood

    def misfit(row: pyarrow.csv.InvalidRow) -> str:
        misfits.append(row.number)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            stream,
            # Row numbers are only known when one thread reads. Any bytes are ISO-8859-1, so that one row that
            # is not UTF-8 does not hide the others; `_utf8` undoes it.
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, encoding="iso-8859-1"),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=misfit
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=list(used),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise empty(where) from error
        raise SeqbenchError(
            f"{where} is not TAB-separated text: {error}.",
            hint="Compare it with the publisher's file, or fetch it again.",
        ) from error
    return _judge(table, where, used, np.array(misfits, np.int64), decimal=decimal, header=header)


def empty(where: str) -> SeqbenchError:
    """The error for a raw file without rows."""
    return SeqbenchError(
        f"{where} is empty: it has no rows.", hint="Fetch it again, or give another file with --raw PATH."
    )


def _judge(
    table: pa.Table,
    where: str,
    used: tuple[str, str, str],
    misfits: np.ndarray,
    *,
    decimal: bool,
    header: int,
) -> RawInteractions:
    """Split the rows into usable and malformed ones, and refuse a file with too many of the latter."""
    user, item, time = (table.column(name) for name in used)
    rows = table.num_rows + len(misfits)
    if rows == 0:
        raise empty(where)
    user, item = _utf8(user), _utf8(item)
    blank = [_as_mask(pc.equal(column, "")) for column in (user, item, time)]
    # In order of precedence: a row is counted once, for the first reason that applies.
    reasons = {
        "blank line": blank[0] & blank[1] & blank[2],
        "empty user id": blank[0],
        "empty item id": blank[1],
        "not UTF-8": _as_mask(pc.or_(user.is_null(), item.is_null())),
        "timestamp is not a whole number": ~_is_timestamp(time, decimal),
    }
    # A kept row stands as many lines further down as there are misfits before it.
    offsets = misfits - np.arange(1, len(misfits) + 1)
    usable = np.ones(table.num_rows, bool)
    malformed = []
    if len(misfits):
        malformed.append(_malformed("wrong number of fields", misfits + header))
    for kind, mask in reasons.items():
        positions = np.flatnonzero(mask & usable)
        usable[positions] = False
        if len(positions):
            shift = np.searchsorted(offsets, positions, side="right")
            malformed.append(_malformed(kind, positions + shift + 1 + header))
    bad = sum(entry.rows for entry in malformed)
    if bad > MALFORMED_LIMIT * rows:
        raise SeqbenchError(
            f"{where}: {bad:,} of {rows:,} rows are malformed ({'; '.join(map(str, malformed))}). "
            f"At most {MALFORMED_LIMIT:.1%} is tolerated.",
            hint="Repair those lines or fetch the file again, then repeat with --raw PATH.",
        )
    if bad:
        keep = pa.array(usable)
        user, item, time = (column.filter(keep) for column in (user, item, time))
    return RawInteractions(
        pa.table(
            {
                columns.USER: user,
                columns.ITEM: item,
                columns.TIMESTAMP: _timestamps(time, decimal),
            }
        ),
        rows=rows,
        malformed=tuple(malformed),
    )


def _malformed(kind: str, lines: np.ndarray) -> Malformed:
    return Malformed(kind, len(lines), tuple(int(line) for line in lines[:SHOWN_LINES]))


def _as_mask(values: pa.ChunkedArray) -> np.ndarray:
    mask: np.ndarray = pc.fill_null(values, False).combine_chunks().to_numpy(zero_copy_only=False)
    return mask


def _utf8(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes that were read as ISO-8859-1, read as UTF-8; null where they are not."""
    if pc.all(pc.string_is_ascii(values)).as_py():
        return values
    encoded = values.dictionary_encode().unify_dictionaries().combine_chunks()
    read = pa.array([_reread(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([read.take(encoded.indices)])


def _reread(value: str) -> str | None:
    try:
        # Some editors put a byte order mark before the first value.
        return value.encode("iso-8859-1").decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None


def _is_timestamp(values: pa.ChunkedArray, decimal: bool) -> np.ndarray:
    number = _as_mask(pc.match_substring_regex(values, DECIMAL_NUMBER if decimal else WHOLE_NUMBER))
    if decimal and number.any():
        exact = pc.less_equal(_floats(values.filter(pa.array(number))), float(LARGEST_EXACT))
        number[number] = _as_mask(exact)
    return number


def _timestamps(values: pa.ChunkedArray, decimal: bool) -> pa.ChunkedArray:
    if decimal:
        return pc.trunc(_floats(values)).cast(pa.int64())
    return values.cast(pa.int64())


def _floats(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(pa.float64())
