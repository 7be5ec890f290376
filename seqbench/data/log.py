"""The one container of interactions: what a parser reads, filters change, and Parquet holds.

Shapes: n rows, U users, V items.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqbench.columns import ITEM, SPLIT, TIMESTAMP, USER
from seqbench.data import selection, spill

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}  # to a second

HASHED = 1 << 22  # rows that are hashed together

PARTS = ("train", "valid", "test")  # the values of a split column, stored as their index


@dataclass(frozen=True)
class Malformed:
    """Rows of a raw file that cannot be used, for one reason."""

    kind: str
    rows: int
    lines: tuple[int, ...]  # the first few line numbers, from 1

    def __str__(self) -> str:
        more = ", …" if self.rows > len(self.lines) else ""
        return f"{self.kind}: {self.rows:,} (line {', '.join(map(str, self.lines))}{more})"


@dataclass
class Log:
    """Interactions in columns, by the names of columns.py.

    From a parser, users and items are codes from 0 in the order of the raw ids, which is that of numbers when all of
    them are digits ("9" before "10") and that of text otherwise, so it does not depend on the order of the file.
    `index.index` numbers those that are left from 1, and so they are stored.
    """

    columns: dict[str, NDArray[Any]]  # user_id, item_id (int32), timestamp (int64), perhaps others; (n,) each
    users: pa.Array  # (U,) strings, the raw ids by code
    items: pa.Array  # (V,)
    time_scale: int = 1  # a timestamp counts this many to a unit of the source
    rows: int = 0  # of the file, malformed ones included
    malformed: tuple[Malformed, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know of how the file was read

    def __len__(self) -> int:
        return len(self.columns[USER])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def get(self, name: str) -> NDArray[Any] | None:
        """Return a column, or None if there is no such."""
        return self.columns.get(name)

    def drop(self, name: str) -> None:
        """Forget a column, if it is there."""
        self.columns.pop(name, None)

    def select(self, chosen: NDArray[np.bool_]) -> None:
        """Keep the rows of a mask (n,), in the memory that they have."""
        if chosen.all():
            return
        for name in self.columns:
            self.columns[name] = selection.select(self.columns[name], chosen)

    def fingerprint(self) -> str:
        """Return the sha256 over the columns as little-endian int32, int32, int64 (and int8)."""
        digest = hashlib.sha256()
        for name, kind in ((USER, "<i4"), (ITEM, "<i4"), (TIMESTAMP, "<i8"), (SPLIT, "<i1")):
            if name in self.columns:
                column = self.columns[name]
                for start in range(0, len(column), HASHED):
                    part = column[start : start + HASHED].astype(kind, copy=False)
                    digest.update(np.ascontiguousarray(part).data)
                    spill.release([column])
        return digest.hexdigest()


def finer(unit: str, scale: int) -> str:
    """Return the unit of time of which `scale` make up `unit`."""
    return next(name for name, parts in UNITS.items() if parts == UNITS[unit] * scale)
