"""Writing a prepared data set: all of it or nothing."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqbench import columns
from seqbench.data.prepared import INTERACTIONS, ITEMS, META, USERS
from seqbench.errors import storage_error


@dataclass(frozen=True)
class Tables:
    """What is written: (n,) arrays in prepared order, and the raw ids by id, that of id 1 first."""

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    raw_users: list[str]
    raw_items: list[str]


def write_prepared(folder: Path, tables: Tables, titles: dict[str, str], meta: dict[str, Any]) -> None:
    """Write the Parquet files and meta.json, then put them in place of `folder`. Needs the data set's lock.

    Raises:
        StorageError: the disk is full or the folder cannot be written to; `folder` is as it was.
    """
    with _replacing_folder(folder) as temporary:
        _write_tables(temporary, tables, titles)
        text = json.dumps(meta, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        (temporary / META).write_text(text, encoding="utf-8")
        _sync(temporary / META)


def _write_tables(folder: Path, tables: Tables, titles: dict[str, str]) -> None:
    raw_users, raw_items = (pa.array(ids, pa.string()) for ids in (tables.raw_users, tables.raw_items))
    item_titles = pa.array([titles.get(raw) for raw in tables.raw_items], pa.string())
    content = {
        INTERACTIONS: {
            columns.USER: tables.users,
            columns.ITEM: tables.items,
            columns.TIMESTAMP: tables.timestamps,
        },
        USERS: {columns.USER: _ids(raw_users), columns.RAW: raw_users},
        ITEMS: {columns.ITEM: _ids(raw_items), columns.RAW: raw_items, columns.TITLE: item_titles},
    }
    for name, table in content.items():
        pq.write_table(pa.table(table), folder / name, compression="zstd")
        _sync(folder / name)


def _ids(raw_ids: pa.Array) -> np.ndarray:
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
