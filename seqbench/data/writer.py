"""Writing a prepared data set: all of it or nothing."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqbench.columns import ITEM, RAW, SPLIT, TIMESTAMP, TITLE, USER
from seqbench.data import spill
from seqbench.data.log import Log
from seqbench.data.prepared import INTERACTIONS, ITEMS, META, USERS
from seqbench.errors import storage_error

ROW_GROUP = 1 << 20  # rows


def write_prepared(folder: Path, log: Log, titles: dict[str, str], meta: dict[str, Any]) -> None:
    """Write the Parquet files and meta.json, then put them in place of `folder`. Needs the data set's lock.

    Raises:
        StorageError: the disk is full or the folder cannot be written to; `folder` is as it was.
    """
    with _replacing_folder(folder) as temporary:
        _write_tables(temporary, log, titles)
        text = json.dumps(meta, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        (temporary / META).write_text(text, encoding="utf-8")
        _sync(temporary / META)


def _write_tables(folder: Path, log: Log, titles: dict[str, str]) -> None:
    known = [titles.get(raw) for raw in log.items.to_pylist()] if titles else [None] * len(log.items)
    content = {
        INTERACTIONS: {name: log[name] for name in (USER, ITEM, TIMESTAMP, SPLIT) if name in log},
        USERS: {USER: _ids(log.users), RAW: log.users},
        ITEMS: {ITEM: _ids(log.items), RAW: log.items, TITLE: pa.array(known, pa.string())},
    }
    for name, table in content.items():
        # A dictionary of times would only be built to be given up. Times are plain, since not every reader of Parquet
        # reads differences (DELTA_BINARY_PACKED) right, and compressed: they are sorted. Ids gain next to nothing.
        whole = _complete(pa.table(table))
        with pq.ParquetWriter(
            folder / name,
            whole.schema,
            compression={column: "none" if column in (USER, ITEM) else "zstd" for column in table},
            use_dictionary=[USER, ITEM],
        ) as stream:
            for start in range(0, max(1, len(whole)), ROW_GROUP):
                stream.write_table(whole.slice(start, ROW_GROUP), ROW_GROUP)
                spill.release(each for each in table.values() if isinstance(each, np.ndarray))
        _sync(folder / name)


def _complete(table: pa.Table) -> pa.Table:
    """Say that no number is ever missing: where one could be, fastparquet reads floats, which lose nanoseconds.

    The statistics that are written say so, too.
    """
    fields = [field.with_nullable(not pa.types.is_integer(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def _ids(raw_ids: pa.Array) -> NDArray[np.int32]:
    return np.arange(1, len(raw_ids) + 1, dtype=np.int32)


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` at the end; if anything fails, `folder` is as it was."""
    temporary, retired = folder.with_name(f".{folder.name}.new"), retired_name(folder)
    try:
        # Left by a process that was killed; the lock says that nobody works there now.
        restore(folder)
        for left in (temporary, retired):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        try:
            if folder.exists():
                folder.rename(retired)
            temporary.rename(folder)
        except BaseException:
            restore(folder)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def retired_name(folder: Path) -> Path:
    """Return where a data set is while another takes its place."""
    return folder.with_name(f".{folder.name}.old")


def restore(folder: Path) -> None:
    """Put a data set back whose replacement did not come; needs its lock."""
    retired = retired_name(folder)
    if retired.is_dir() and not folder.exists():
        retired.rename(folder)
