"""The outcome of full ranking, and the two Parquet files that keep it.

    ranks.parquet    user, better, ties       one row per evaluated user
    top.parquet      user, position, item     the best items of each, position 1 first

Files may come from other people: what is read is checked before it is believed.

Shapes: U evaluated users, K best items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqbench import columns
from seqbench.errors import SeqbenchError
from seqbench.evaluation import metrics
from seqbench.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]

ROW_LIMIT = 1 << 28  # rows of a file that is read: a few bytes of Parquet can claim to hold billions of equal ones

DAMAGED_HINT = "Repeat `seqbench run` with the same options to measure this cell again."


@dataclass(frozen=True)
class Ranks:
    """Per evaluated user: items ranked strictly better than the target, and others tied with it."""

    users: Ints  # (U,)
    better: Ints  # (U,)
    ties: Ints  # (U,)
    top: Ints | None = None  # (U, K) best items that may be recommended, best first; 0 where there are fewer

    def __getitem__(self, metric: str) -> float:
        """Return the mean over users of a metric such as "ndcg@10"."""
        return float(self.per_user(metric).mean())

    def metrics(self) -> dict[str, float]:
        """Return the means over users of HR, NDCG and MRR at each cut-off."""
        return metrics.means(self.better, self.ties)

    def per_user(self, metric: str) -> NDArray[np.float64]:
        """Return the (U,) expected values of a metric such as "ndcg@10" under random tie-breaking."""
        return metrics.per_user(metric, self.better, self.ties)

    def write(self, path: Path) -> None:
        """Store users, better and ties as Parquet."""
        _write(path, {columns.USER: self.users, columns.BETTER: self.better, columns.TIES: self.ties})

    def write_top(self, path: Path) -> None:
        """Store the best items as Parquet, one row per user and item.

        Raises:
            ValueError: the ranking was made without them.
        """
        if self.top is None:
            raise ValueError("the ranking was made without its best items; see `rank`")
        rows, places = np.nonzero(self.top)
        content = {columns.USER: self.users[rows], columns.POSITION: places + 1, columns.ITEM: self.top[rows, places]}
        _write(path, content)

    @classmethod
    def read(cls, path: Path) -> "Ranks":
        """Read what `write` stored.

        Raises:
            SeqbenchError: the file is missing or damaged, or holds something else.
        """
        users, better, ties = _read(path, (columns.USER, columns.BETTER, columns.TIES))
        _require(len(users) > 0, path, "it has no rows")
        _require(users.min() > 0 and bool((np.diff(users) > 0).all()), path, "its users are not in order")
        _require(min(better.min(), ties.min()) >= 0, path, "it has negative counts")
        return cls(users, better, ties)


def read_top(path: Path) -> tuple[Ints, Ints, Ints]:
    """Read what `Ranks.write_top` stored: users, positions (from 1) and items, one row per user and position.

    Raises:
        SeqbenchError: the file is missing or damaged, or holds something else.
    """
    users, positions, items = _read(path, (columns.USER, columns.POSITION, columns.ITEM))
    if len(users):
        _require(min(users.min(), positions.min(), items.min()) > 0, path, "it has ids or positions below 1")
        same = np.diff(users) == 0
        in_order = np.where(same, np.diff(positions) == 1, (np.diff(users) > 0) & (positions[1:] == 1))
        _require(positions[0] == 1 and bool(in_order.all()), path, "its positions are not in order")
    return users, positions, items


def _write(path: Path, content: dict[str, Ints]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: values.astype(np.int32) for name, values in content.items()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _read(path: Path, names: Sequence[str]) -> list[Ints]:
    """Read whole-number columns without missing values, equally long as they stand in one table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _require(path.is_file(), path, "it is not there, or no file", what="cannot be read")
    try:
        with pq.ParquetFile(path) as file:
            _require(file.metadata.num_rows <= ROW_LIMIT, path, f"it claims to have {file.metadata.num_rows:,} rows")
            for name in names:
                _require(_is_whole(file.schema_arrow, name), path, f"it has no column {name} of whole numbers")
            table = file.read(columns=list(names), use_threads=False)  # small, and many
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        reason = str(error).partition("\n")[0]
        raise SeqbenchError(f"{path} is damaged ({reason}).", hint=DAMAGED_HINT) from error
    for name in names:
        _require(table[name].null_count == 0, path, f"its column {name} has missing values")
    # Not to_numpy, which loads pandas.
    return [np.from_dlpack(table[name].combine_chunks()).astype(np.int64) for name in names]


def _is_whole(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    return name in schema.names and pa.types.is_integer(schema.field(name).type)


def _require(condition: bool, path: Path, reason: str, what: str = "is damaged") -> None:
    if not condition:
        raise SeqbenchError(f"{path} {what} ({reason}).", hint=DAMAGED_HINT)
