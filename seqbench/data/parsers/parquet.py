"""A user's own Parquet file: columns of any type, read group by group."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqbench.columns import ITEM, RATING, SPLIT, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers.delimited import typed
from seqbench.data.parsers.recognise import Sample
from seqbench.data.parsers.rows import Block, Collector, Fields, judge
from seqbench.errors import SeqbenchError

ROWS = 1 << 20  # that are looked at together
SAMPLE = 1000  # rows

# A file whose columns unpack to more than this many times its size holds no log of interactions.
MAX_EXPANSION = 200
MAX_EXPANSION_FLOOR = 64 << 20  # bytes that any file may hold, however small
ROW = 24  # bytes: a user, an item, a time


def sample(path: Path, where: str) -> Sample:
    """Read the names and the first rows.

    Raises:
        SeqbenchError: the file is no Parquet, or unpacks to an absurd size.
    """
    with _opened(path, where) as file:
        schema = file.schema_arrow
        found = Sample(where, list(schema.names), lists={field.name for field in schema if _is_list(field.type)})
        flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
        for batch in file.iter_batches(SAMPLE, columns=flat):
            table = pa.table(batch)
            found.values = {name: _words(_flat(table.column(name))).to_pylist() for name in flat}
            break
        return found


def interactions(path: Path, where: str, fields: Fields) -> tuple[Log, str | None]:
    """Read the columns of `fields`.

    Returns:
        The rows, and the unit of the times if the file says it.

    Raises:
        SeqbenchError: the file is damaged, empty, or malformed past the limit.
    """
    collector = Collector(where)
    # Ids stay as they are written, as places in a dictionary: a few bytes may stand for a million long texts.
    with _opened(path, where, [fields.columns[USER], fields.columns[ITEM]]) as file:
        time = fields.columns.get(TIMESTAMP)
        unit = None
        if time is not None and pa.types.is_temporal(file.schema_arrow.field(time).type):
            unit = _unit(file, time)
        for batch in file.iter_batches(ROWS, columns=list(dict.fromkeys(fields.columns.values()))):
            table = pa.table(batch)
            table.validate(full=True)  # texts that are not UTF-8, above all
            values = {name: _flat(table.column(column), unit) for name, column in fields.columns.items()}
            if (block := _at_once(values, fields)) is not None:
                collector.add(block)
                continue
            numbers = np.arange(collector.rows + 1, collector.rows + 1 + len(table))
            judge({name: _words(column) for name, column in values.items()}, fields, numbers, collector)
            collector.check_hope()
    units = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    return collector.finish(), units[unit] if unit else None


@contextmanager
def _opened(path: Path, where: str, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, read_dictionary=list(dictionaries)) as file:
            # Of equal values a file needs next to nothing: its rows say what it unpacks to.
            rows = file.metadata.num_rows
            if rows * ROW > max(MAX_EXPANSION_FLOOR, MAX_EXPANSION * path.stat().st_size):
                raise SeqbenchError(
                    f"{where} unpacks to {rows:,} rows, past the limit for a file of its size.",
                    hint="This is no file of interactions. Write it again, or as CSV.",
                )
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SeqbenchError(f"{where} cannot be read as Parquet: {error}.", hint="Write the file again.") from error


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _unit(file: pq.ParquetFile, time: str) -> str:
    """Return the unit that the times of a file are read in: the coarsest of ms, us and ns that loses nothing."""
    kind = file.schema_arrow.field(time).type
    if not (pa.types.is_timestamp(kind) and kind.unit in ("us", "ns")):
        return "ms"
    found = "ms"
    for batch in file.iter_batches(ROWS, columns=[time]):
        moments = pc.fill_null(batch.column(0).cast(pa.int64()), 0).to_numpy()
        parts = 1000 if kind.unit == "us" else 10**6
        if kind.unit == "ns" and (moments % 1000).any():
            return "ns"
        if (moments % parts).any():
            found = "us"
    return found


def _flat(column: pa.ChunkedArray, unit: str | None = None) -> pa.ChunkedArray:
    """Return dictionaries, wide strings, dates and whole numbers written as floats as plain columns.

    Args:
        unit: that of temporal columns; None for text.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        if pa.types.is_string(kind.value_type):
            return column
        column = column.cast(kind.value_type)
    if pa.types.is_temporal(kind):
        if unit is None:
            return column.cast(pa.string())
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        return column.cast(pa.timestamp(unit, zone)).cast(pa.int64())  # in UTC
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.cast(pa.string())
    if pa.types.is_unsigned_integer(column.type) and pc.any(pc.greater(column, 2**63 - 1)).as_py():
        return column.cast(pa.string())
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)  # a missing value, as null is
        whole = pc.and_(pc.equal(column, pc.trunc(column)), pc.less(pc.abs(column), 2.0**53))
        if pc.all(whole).as_py() is not False:
            return column.cast(pa.int64())
    if pa.types.is_decimal(column.type):
        return column.cast(pa.string())
    return column


def _at_once(values: dict[str, pa.ChunkedArray], fields: Fields) -> Block | None:
    ready = {}
    for name, column in values.items():
        kind = column.type
        if name in (USER, ITEM, SPLIT) and (pa.types.is_string(kind) or pa.types.is_dictionary(kind)):
            column = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        elif name == RATING and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            column = column.cast(pa.float64())
        elif name == TIMESTAMP:
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind)):
                return None
        elif not pa.types.is_integer(kind) or name in (SPLIT, RATING):
            return None
        ready[name] = column
    try:
        return typed(ready, fields, floats=True)
    except pa.ArrowInvalid:
        return None


def _words(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as text; what is missing is empty."""
    texts = column.cast(pa.string()) if not pa.types.is_null(column.type) else pa.nulls(len(column), pa.string())
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return pc.fill_null(texts, "")
