"""Results of other programs: ranked lists, or ranks, of the test users of a prepared data set.

Read are Parquet, CSV and TSV with a header, and run files of TREC ("user Q0 item rank score tag"), with the users and
items of the raw data. Columns: user, item, and position, rank or score, for lists; user and rank for ranks. A file says
nothing of how it was made: what can be checked is checked, and figures that a short list cannot give are not given.

Shapes: U test users, K items of a list, n rows of the file.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from seqbench.data.prepared import PreparedDataset
from seqbench.data.sequences import Examples, Sequences
from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.metrics import STANDARD, parse
from seqbench.evaluation.ranks import Ranks
from seqbench.protocol import REMOVALS, Protocol
from seqbench.results.facts import dataset_facts
from seqbench.results.records import FOLDER_NAME, Definition, Imported, Record
from seqbench.results.store import RANKS, TOP, finished_record, write_record

Ints = NDArray[np.int64]

LARGEST_FILE = 8 << 30  # bytes
ROW_LIMIT = 1 << 28
TOP_ITEMS = 20  # of each list that are stored, as of cells that were run here
TREC = ("user", "q0", "item", "rank", "score", "tag")
ORDERS = ("position", "rank", "score")  # columns that say where an item stands, the first there counts
SOURCE = "imported"  # of the definition, where models of files have the hash of their code
FORMATS = "user,item,position or user,rank; Parquet, CSV, TSV with a header, or a TREC run file"


@dataclass(frozen=True)
class _Rows:
    """Rows of a file, by user, then from the best item on; or one row per user with its rank."""

    users: Ints  # (n,)
    items: Ints | None  # (n,); None: ranks
    ranks: Ints  # (n,) from 1


def import_file(
    path: Path,
    prepared: PreparedDataset,
    model: str,
    protocol: Protocol,
    *,
    results: Path,
    seed: int = 0,
    force: bool = False,
) -> Record:
    """Store a file of another program as a finished cell, marked as imported.

    Args:
        prepared: the data set that the other program was tested on.
        model: what to call it.
        protocol: that the file was made under.
        results: the results store.
        force: replace an earlier import.

    Raises:
        UsageError: the name cannot be that of a folder, or is taken.
        SeqbenchError: the file is no such file, or does not fit the data set or the protocol.
    """
    if not FOLDER_NAME.fullmatch(model):
        raise UsageError(f"'{model}' cannot be the name of a model.", hint="Use letters, digits, blanks, ( ) . - _")
    definition = Definition(
        dataset=prepared.name,
        fingerprint=prepared.fingerprint,
        protocol=protocol,
        model=model,
        config={},
        training=None,
        seed=seed,
        device="cpu",
        backend=None,
        source=SOURCE,
    )
    if not force and finished_record(results, definition):
        raise UsageError(f"{definition.label()} is in {results} already.", hint="Repeat with --force to replace it.")
    log = prepared.load()
    sequences = prepared.split(protocol.split)
    examples = sequences.test()
    rows = _rows(_table(path), path, log.users, log.items)
    _check_users(path, rows, examples, log.users)
    ranks, depth = (
        _of_ranks(path, rows, sequences.items) if rows.items is None else _of_lists(path, rows, examples, sequences)
    )
    if ranks.top is not None:
        _check_removed(path, ranks.top, examples, sequences, protocol)
    known = [name for name in STANDARD if depth is None or (parse(name).cutoff or depth + 1) <= depth]
    record = Record(
        definition=definition,
        status="finished",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        environment={},
        dataset=dataset_facts(prepared, sequences, protocol),
        accuracy={name: ranks[name] for name in known},
        changes={"config": {}},
        imported=Imported(file=path.name, sha256=_digest(path), depth=depth),
    )
    folder = definition.folder(results)
    ranks.write(folder / RANKS)
    if ranks.top is not None:
        ranks.write_top(folder / TOP)
    write_record(results, record)
    return record


def _table(path: Path) -> pa.Table:
    """Read a file, its columns named in lower case."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise SeqbenchError(f"{path} is no file, or a very large one.", hint=f"Give a file: {FORMATS}.")
        with path.open("rb") as stream:
            head = stream.read(4096)
        if head[:4] == b"PAR1":
            with pa.parquet.ParquetFile(path) as file:
                if file.metadata.num_rows > ROW_LIMIT:
                    raise ValueError(f"it claims to have {file.metadata.num_rows:,} rows")
                table = file.read()
        else:
            table = _text_table(path, head.decode("utf-8", errors="replace").partition("\n")[0])
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SeqbenchError(f"{path} cannot be read ({reason}).", hint=f"Give {FORMATS}.") from error
    names = [name.strip().lower() for name in table.column_names]
    if len(set(names)) < len(names):
        raise SeqbenchError(f"{path} has two columns of one name.", hint=f"Give {FORMATS}.")
    return table.rename_columns(names)


def _text_table(path: Path, first: str) -> pa.Table:
    words = first.split()
    trec = len(words) == len(TREC) and words[1].lower() == "q0"
    delimiter = "," if "," in first and not trec else "\t" if "\t" in first else " "
    names = TREC if trec else [name.strip().strip('"') for name in first.split(delimiter)]
    as_text = {name: pa.string() for name in names if name.lower() in ("user", "item")}
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(column_names=list(TREC) if trec else None),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter),
        convert_options=pa.csv.ConvertOptions(column_types=as_text, strings_can_be_null=False),
    )


def _rows(table: pa.Table, path: Path, users: pa.Array, items: pa.Array) -> _Rows:
    """Turn raw ids into ours, and sort."""
    names = table.column_names
    order = next((name for name in ORDERS if name in names), None)
    if "user" not in names or order is None or ("item" not in names and order != "rank"):
        raise SeqbenchError(f"{path} has the columns {', '.join(names)}.", hint=f"Give {FORMATS}.")
    if len(table) == 0:
        raise SeqbenchError(f"{path} has no rows.", hint=f"Give {FORMATS}.")
    user = _ids(table["user"], users, path, "user")
    values = _numbers(table[order], path, order)
    if "item" not in names:
        if not (values == np.floor(values)).all() or values.min() < 1:
            raise SeqbenchError(f"{path} has ranks that are not whole numbers from 1.", hint="1 is the best rank.")
        by_user = np.argsort(user, kind="stable")
        return _Rows(user[by_user], None, values[by_user].astype(np.int64))
    item = _ids(table["item"], items, path, "item")
    rows = np.lexsort((-values if order == "score" else values, user))  # stable: equal scores as in the file
    user, item = user[rows], item[rows]
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    places = np.arange(len(user)) - np.repeat(starts, np.diff(starts, append=len(user))) + 1
    pairs = np.sort(user * (len(items) + 1) + item)
    if (np.diff(pairs) == 0).any():
        raise SeqbenchError(f"{path} recommends an item to a user twice.", hint="Each item once for each user.")
    return _Rows(user, item, places)


def _ids(column: pa.ChunkedArray, known: pa.Array, path: Path, what: str) -> Ints:
    """Return ids from 1 of raw ids (n,)."""
    import pyarrow.compute as pc

    text = column.cast(pa.string())
    found = pc.index_in(text, value_set=known.cast(pa.string())).combine_chunks()
    if found.null_count:
        first = text[pc.index(found.is_null(), True).as_py()].as_py()
        raise SeqbenchError(
            f"{path}: {found.null_count:,} rows have {what} ids that the data set does not have, first {first!r}.",
            hint="Users and items are those of the raw data; see `seqbench data`.",
        )
    return np.from_dlpack(found).astype(np.int64) + 1


def _numbers(column: pa.ChunkedArray, path: Path, name: str) -> NDArray[np.float64]:
    values = np.asarray(column.cast(pa.float64()).combine_chunks().to_numpy(zero_copy_only=False), np.float64)
    if not np.isfinite(values).all():
        raise SeqbenchError(f"{path}: a {name} is missing or is not a finite number.", hint=f"Give {FORMATS}.")
    return values


def _check_users(path: Path, rows: _Rows, examples: Examples, raw: pa.Array) -> None:
    """Check that the file is about the test users, all of them and nobody else."""
    found = np.unique(rows.users)
    for users, words in (
        (np.setdiff1d(found, examples.users), "of the file have no test target"),
        (np.setdiff1d(examples.users, found), "with a test target are not in the file"),
    ):
        if len(users):
            raise SeqbenchError(
                f"{path}: {len(users):,} users {words}, first '{raw[int(users[0]) - 1].as_py()}'.",
                hint=f"Give all {len(examples):,} test users; --split says how they are chosen.",
            )


def _of_ranks(path: Path, rows: _Rows, items: int) -> tuple[Ranks, None]:
    if len(np.unique(rows.users)) < len(rows.users):
        raise SeqbenchError(f"{path} has several ranks of one user.", hint="Give one row for each user.")
    if rows.ranks.max() > items:
        raise SeqbenchError(f"{path} has ranks beyond the {items:,} items of the data set.", hint="1 is the best rank.")
    return Ranks(rows.users, rows.ranks - 1, np.zeros(len(rows.users), np.int64)), None


def _of_lists(path: Path, rows: _Rows, examples: Examples, sequences: Sequences) -> tuple[Ranks, int]:
    """Return ranks, and how many places are known of every user: a target that is in no place is behind them."""
    assert rows.items is not None
    lengths = np.bincount(np.searchsorted(examples.users, rows.users), minlength=len(examples))
    depth = int(lengths.min())
    at = np.searchsorted(examples.users, rows.users)
    hit = rows.items == examples.targets[at]
    better = np.minimum(np.maximum(lengths, depth), sequences.items - 1)
    better[at[hit]] = rows.ranks[hit] - 1
    top = np.zeros((len(examples), TOP_ITEMS), np.int64)
    kept = rows.ranks <= TOP_ITEMS
    top[at[kept], rows.ranks[kept] - 1] = rows.items[kept]
    return Ranks(examples.users.astype(np.int64), better, np.zeros(len(examples), np.int64), top), depth


def _check_removed(path: Path, top: Ints, examples: Examples, sequences: Sequences, protocol: Protocol) -> None:
    """Check that lists hold nothing that the protocol removes."""
    removed = REMOVALS[protocol.removed].items(sequences, examples, protocol.max_len)
    bad = [
        row
        for row, (listed, seen, target) in enumerate(zip(top, removed, examples.targets, strict=True))
        if len(np.setdiff1d(np.intersect1d(listed[listed > 0], seen), [target]))
    ]
    if bad:
        raise SeqbenchError(
            f"{path}: the lists of {len(bad):,} users hold items that protocol {protocol.name} removes.",
            hint="Use --protocol recbole if seen items were kept.",
        )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
