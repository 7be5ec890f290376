"""Histories of many users from a file or from the prepared data set, and recommendations to a file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from seqbench.columns import ITEM, POSITION, TIMESTAMP, USER
from seqbench.data.sequences import Ints
from seqbench.errors import SeqbenchError, UsageError, unknown_name
from seqbench.files import writing
from seqbench.inference.best import Histories
from seqbench.inference.items import ItemIds

if TYPE_CHECKING:
    from seqbench.data.prepared import PreparedDataset

SCORE = "score"
# A column's name → what it is.
ROLES = {"user": USER, USER: USER, "item": ITEM, ITEM: ITEM, "time": TIMESTAMP, TIMESTAMP: TIMESTAMP}


@dataclass(frozen=True)
class UserHistories:
    """Users with raw ids, and what they have taken so far."""

    users: pa.Array  # (U,) strings
    histories: Histories  # (U,)
    unknown: tuple[str, ...] = ()  # raw ids of items that the model does not know, each once
    skipped: int = 0  # rows with such items


def read_users(path: Path, ids: ItemIds, known: Callable[[], UserHistories], *, timed: bool = False) -> UserHistories:
    """Read histories, or users alone.

    Args:
        path: CSV, TSV, Parquet or JSON lines, with a column `user` (or `user_id`) and a column `item` (or `item_id`):
            one row for each item, those of a user oldest first. Without items, users of the data set.
        ids: of the model's items.
        known: returns the users of the data set with their histories; asked only if the file has no items.
        timed: whether a column `time` (or `timestamp`) is needed beside items: Parquet's own type, or whole seconds
            since 1970.

    Raises:
        UsageError: there is no column of users, or none of times that are needed, or a user is not in the data set.
        SeqbenchError: the file cannot be read.
    """
    table = _table(path)
    if table[USER].null_count or (ITEM in table.column_names and table[ITEM].null_count):
        raise SeqbenchError(f"{path} has rows without a user or an item.", hint="Complete them, or leave them out.")
    if ITEM not in table.column_names:
        return _chosen(known(), table[USER].combine_chunks(), path)
    users = table[USER].combine_chunks().dictionary_encode()
    items = table[ITEM].combine_chunks().dictionary_encode()
    raw = items.dictionary.to_pylist()
    numbers = np.array([ids.numbers.get(each, 0) for each in raw], dtype=np.int32)
    taken = numbers[items.indices.to_numpy()]
    codes = users.indices.to_numpy()
    by_user = np.argsort(codes, kind="stable")
    by_user = by_user[taken[by_user] > 0]
    lengths = np.bincount(codes[by_user], minlength=len(users.dictionary))
    times = _seconds(table, path)[by_user] if timed else None
    return UserHistories(
        users.dictionary,
        Histories(taken[by_user], np.concatenate([[0], np.cumsum(lengths)]), times),
        tuple(raw[at] for at in np.flatnonzero(numbers == 0)),
        int((taken == 0).sum()),
    )


def users_of(prepared: "PreparedDataset") -> UserHistories:
    """Return all users of a prepared data set with all their interactions.

    Raises:
        SeqbenchError: it is damaged.
    """
    log = prepared.load()
    lengths = np.bincount(log[USER], minlength=len(log.users) + 1)[1:]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return UserHistories(log.users, Histories(log[ITEM], offsets, prepared.seconds(log)))


def _chosen(known: UserHistories, wanted: pa.Array, path: Path) -> UserHistories:
    """Return the wanted ones of the users."""
    rows = pc.index_in(wanted, known.users)
    if rows.null_count:
        missing = wanted.filter(pc.is_null(rows)).to_pylist()
        raise UsageError(
            f"{path} names {len(missing):,} users that are not in the data set, such as {missing[0]!r}.",
            hint="Add a column of items for users with histories of their own.",
        )
    places = rows.to_numpy()
    starts, stops = known.histories.offsets[places], known.histories.offsets[places + 1]
    ranges = [slice(a, b) for a, b in zip(starts, stops, strict=True)]
    flat, times = known.histories.flat, known.histories.times
    if times is not None:
        times = np.concatenate([times[:0], *(times[part] for part in ranges)])
    flat = np.concatenate([flat[:0], *(flat[part] for part in ranges)])
    return UserHistories(wanted, Histories(flat, np.concatenate([[0], np.cumsum(stops - starts)]), times))


def _seconds(table: pa.Table, path: Path) -> Ints:
    """Return the times of a file's rows in seconds since 1970."""
    if TIMESTAMP not in table.column_names:
        raise UsageError(f"{path} has no column time, which the model uses.", hint="Add it: seconds since 1970.")
    column = table[TIMESTAMP].combine_chunks()
    try:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("s", column.type.tz), safe=False)
        if column.null_count:
            raise ValueError("a row has none")
        return np.array(column.cast(pa.int64()))
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SeqbenchError(
            f"{path} has times that are no whole seconds since 1970 ({reason}).",
            hint="See `seqbench recommend --help`.",
        ) from error


def _table(path: Path) -> pa.Table:
    """Read the columns of users and items, as strings."""
    form = _form(path)
    try:
        table = READERS[form](path)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SeqbenchError(f"{path} cannot be read ({reason}).", hint="See `seqbench recommend --help`.") from error
    found = {ROLES[name]: name for name in table.column_names if name in ROLES}
    if USER not in found:
        raise UsageError(
            f"{path} has no column user or user_id, but {', '.join(table.column_names)}.", hint="Rename its column."
        )
    return pa.table(
        {role: table[name] if role == TIMESTAMP else table[name].cast(pa.string()) for role, name in found.items()}
    )


def _csv(path: Path) -> pa.Table:
    tab = path.suffix == ".tsv"
    return pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter="\t" if tab else ","),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(ROLES, pa.string()), strings_can_be_null=False
        ),
    )


def _json_lines(path: Path) -> pa.Table:
    import pyarrow.json

    return pyarrow.json.read_json(path)


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": pyarrow.parquet.read_table,
    ".jsonl": _json_lines,
}


def write_recommendations(path: Path, users: pa.Array, ids: Ints, scores: NDArray[np.float32], names: ItemIds) -> None:
    """Store recommendations, one row for each: user_id, position from 1, item_id, score; in the order of the users.

    Args:
        path: .csv, .parquet or .jsonl.
        ids: (U, K) item numbers; 0 where there are fewer.
        scores: (U, K).

    Raises:
        UsageError: the ending is another one.
        StorageError: the disk is full, or the path cannot be written to.
    """
    form = _form(path)
    rows, places = np.nonzero(ids)
    table = pa.table(
        {
            USER: users.take(pa.array(rows)),
            POSITION: pa.array(places + 1, pa.int32()),
            ITEM: pa.array(names.raw, pa.string()).take(pa.array(ids[rows, places] - 1)),
            SCORE: pa.array(scores[rows, places]),
        }
    )
    with writing(path) as temporary:
        if form == ".parquet":
            pyarrow.parquet.write_table(table, temporary, compression="zstd")
        elif form == ".jsonl":
            with temporary.open("w", encoding="utf-8") as stream:
                for batch in table.to_batches(max_chunksize=1 << 16):
                    stream.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
        else:
            options = pa.csv.WriteOptions(delimiter="\t" if form == ".tsv" else ",")
            pa.csv.write_csv(table, temporary, options)


def check_output(path: Path) -> None:
    """Raise UsageError unless recommendations can be written in the form that the path's ending says."""
    _form(path)


def _form(path: Path) -> str:
    if path.suffix not in READERS:
        raise unknown_name("File format", path.suffix or path.name, READERS, "seqbench recommend --help")
    return path.suffix
