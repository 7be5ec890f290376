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
from seqbench.data.log import Log
from seqbench.data.prepared import INTERACTIONS, ITEMS, META, USERS
from seqbench.errors import storage_error


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
        # A dictionary of times would only be built to be given up. Compressing what is encoded so takes half as long
        # again, and twice as long to read, for a file that is a sixth smaller.
        pq.write_table(
            pa.table(table),
            folder / name,
            compression="none" if name == INTERACTIONS else "zstd",
            use_dictionary=[USER, ITEM],
            column_encoding={TIMESTAMP: "DELTA_BINARY_PACKED"} if name == INTERACTIONS else None,
            write_statistics=False,
        )
        _sync(folder / name)


def _ids(raw_ids: pa.Array) -> NDArray[np.int32]:
    return np.arange(1, len(raw_ids) + 1, dtype=np.int32)


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place at the end."""
    temporary = folder.with_name(f".{folder.name}.new")
    retired = folder.with_name(f".{folder.name}.old")
    try:
        # Left by a process that was killed; the lock says that nobody works there now.
        for left in (temporary, retired):
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rename(retired)
        temporary.rename(folder)
    except OSError as error:
        raise storage_error(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
