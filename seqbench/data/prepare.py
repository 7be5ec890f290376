"""Raw files → a prepared data set: duplicates, k-core, order, contiguous ids, Parquet.

Ids run from 1 (0 is padding) in the order of the raw ids, compared as numbers when all raw ids of the source
are digits and as text otherwise; so they do not depend on the order of the file.
"""

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqbench import __version__, columns, console, paths
from seqbench.data import download, filters, parsers
from seqbench.data import raw as rawfiles
from seqbench.data import synthetic as synthesis
from seqbench.data.catalog import TIES, DatasetSpec, get_spec
from seqbench.data.ceiling import ceiling
from seqbench.data.parsers.rows import RawInteractions
from seqbench.data.prepared import META, SCHEMA_VERSION, PreparedDataset, fingerprint_of
from seqbench.data.store import Tables, write_prepared
from seqbench.data.synthetic import SyntheticOptions
from seqbench.errors import SeqbenchError, UsageError
from seqbench.locking import locked


@dataclass(frozen=True)
class _Loaded:
    """The interactions of a source before any filtering, and where they came from."""

    raw: RawInteractions
    titles: dict[str, str]
    source: dict[str, Any]  # for meta.json
    generated: synthesis.Generated | None = None


def prepare(
    dataset: str | DatasetSpec,
    *,
    home: Path,
    raw: Path | None = None,
    min_user: int | None = None,
    min_item: int | None = None,
    ties: str | None = None,
    synthetic: SyntheticOptions | None = None,
    force: bool = False,
) -> PreparedDataset:
    """Fetch or generate, filter, reindex and store a data set in `paths.prepared(home)`.

    A data set that is there already with the same options is returned as it is.

    Args:
        dataset: a name in datasets.yaml, or an entry.
        home: holds downloads/ and prepared/.
        raw: read this archive, folder or file instead of downloading.
        min_user: users keep at least this many interactions; the entry's default if None.
        min_item: items keep at least this many interactions; the entry's default if None.
        ties: order of equal timestamps, "file" or "item"; the entry's default if None.
        synthetic: the size of generated data; only for entries with a generator.
        force: prepare again even if nothing changed.

    Raises:
        UsageError: the name is unknown, or options do not fit the data set.
        StorageError: the disk is full, or the folder cannot be written to.
        SeqbenchError: no source works, a raw file is malformed, or no interaction passes the filters.
    """
    spec = get_spec(dataset) if isinstance(dataset, str) else dataset
    options = _options(spec, raw, min_user, min_item, ties, synthetic)
    folder = paths.prepared(home, spec.name)
    with locked(folder.parent / f".{spec.name}.lock", f"it is preparing {spec.name}"):
        if not force and (ready := _reusable(folder, options)):
            console.note(f"{spec.name} is already prepared in {folder}; --force prepares it again.")
            return ready
        loaded = _load(spec, home, raw, synthetic)
        tables, raw_counts = _filter(spec, loaded.raw.table, options)
        meta = _meta(spec, options, loaded, tables, raw_counts)
        write_prepared(folder, tables, loaded.titles, meta)
        if meta["count_mismatch"]:
            console.warn(f"{spec.name} does not have the published size: {meta['count_mismatch']}.")
        return PreparedDataset(folder)


def _options(
    spec: DatasetSpec,
    raw: Path | None,
    min_user: int | None,
    min_item: int | None,
    ties: str | None,
    synthetic: SyntheticOptions | None,
) -> dict[str, Any]:
    """What decides the outcome, checked and with the defaults filled in. Kept in meta.json to be compared."""
    for flag, value in (("--min-user", min_user), ("--min-item", min_item)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be at least 1, not {value}.", hint=f"{flag} 1 keeps everything.")
    if ties is not None and ties not in TIES:
        raise UsageError(f"--ties must be {' or '.join(TIES)}, not '{ties}'.")
    if spec.generator is None and synthetic is not None:
        raise UsageError(
            f"{spec.name} is not generated: --users, --items, --length and --seed do not apply.",
            hint="They belong to `seqbench prepare synthetic`.",
        )
    if spec.generator is not None and raw is not None:
        raise UsageError(f"{spec.name} is generated: --raw does not apply.")
    options: dict[str, Any] = {
        "min_user": spec.min_user if min_user is None else min_user,
        "min_item": spec.min_item if min_item is None else min_item,
        "ties": ties or spec.ties,
        "duplicates": spec.duplicates,
        "synthetic": synthesis.describe(synthetic or SyntheticOptions()) if spec.generator else None,
        "raw": None,
    }
    if raw is not None:
        try:
            stat = raw.stat()
        except OSError as error:
            raise SeqbenchError(
                f"{raw} cannot be read: {error.strerror}.", hint="Give --raw a file or folder that exists."
            ) from error
        options["raw"] = {"path": str(raw.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
    return options


def _reusable(folder: Path, options: dict[str, Any]) -> PreparedDataset | None:
    """What is prepared already, if the options agree. Without --raw any source of the data will do."""
    if not (folder / META).is_file():
        return None
    try:
        ready = PreparedDataset(folder)
    except SeqbenchError as error:
        console.warn(f"{error.message} It is prepared again.")
        return None
    stored = ready.meta.get("options", {})
    ignored = {"raw"} if options["raw"] is None else set()
    same = all(stored.get(key) == value for key, value in options.items() if key not in ignored)
    if not same:
        console.note(f"{folder} was prepared with other options and is replaced.")
    return ready if same else None


def _load(spec: DatasetSpec, home: Path, raw: Path | None, synthetic: SyntheticOptions | None) -> _Loaded:
    """Get hold of the interactions: generated, given by the user, or downloaded."""
    if spec.generator is not None:
        return _generate(synthetic or SyntheticOptions())
    if raw is not None:
        files, fetched = rawfiles.locate(spec, raw), False
    else:
        source, path = download.fetch(spec, home)
        files, fetched = rawfiles.locate(spec, path, source), True
    with rawfiles.opened(files.interactions) as (stream, sha256):
        where = str(files.interactions)
        interactions = parsers.load(parsers.INTERACTIONS, files.interactions.format)(stream, where)
        digest = sha256()
    titles: dict[str, str] = {}
    if files.items:
        with rawfiles.opened(files.items) as (stream, _):
            titles = parsers.load(parsers.TITLES, files.items.format)(stream)
    published = files.interactions.sha256
    if published and digest != published:
        console.warn(f"{where} is not the published file: its sha256 is {digest} instead of {published}.")
    for malformed in interactions.malformed:
        console.warn(f"{where}: rows left out, {malformed}.")
    label = f"{files.source.label}, {files.source.location}" if fetched else str(raw)
    return _Loaded(
        interactions,
        titles,
        {
            "label": label,
            "file": files.interactions.path.name,
            "member": files.interactions.member,
            "format": files.interactions.format,
            "file_sha256": rawfiles.sha256_of(files.interactions.path),
            "interactions_sha256": digest,
        },
    )


def _generate(options: SyntheticOptions) -> _Loaded:
    console.note(f"Generating {options.users:,} users × {options.length} of {options.items:,} items …")
    generated = synthesis.generate(options)
    users, items, timestamps = generated.rows()
    table = pa.table(
        {
            columns.USER: pa.array(users).cast(pa.string()),
            columns.ITEM: pa.array(items).cast(pa.string()),
            columns.TIMESTAMP: pa.array(timestamps),
        }
    )
    source = {"label": f"generated, seed {options.seed}", "process": synthesis.describe(options)}
    return _Loaded(RawInteractions(table, rows=table.num_rows), {}, source, generated)


def _filter(spec: DatasetSpec, table: pa.Table, options: dict[str, Any]) -> tuple[Tables, dict[str, float]]:
    """Duplicates, k-core, contiguous ids, order. Also returns the counts before all that."""
    users, raw_users = _codes(table.column(columns.USER))
    items, raw_items = _codes(table.column(columns.ITEM))
    timestamps = table.column(columns.TIMESTAMP).to_numpy()
    raw_counts = _counts(users, len(raw_users), len(raw_items))

    kept = np.arange(len(users))
    if options["duplicates"] == "first":
        kept = filters.first_of_each_pair(users, items, timestamps)
    kept = kept[filters.k_core(users[kept], items[kept], options["min_user"], options["min_item"])]
    if not len(kept):
        raise SeqbenchError(
            f"No interaction of {spec.name} passes the filters (at least {options['min_user']} per user and "
            f"{options['min_item']} per item). Before them there were {raw_counts['users']:,} users, "
            f"{raw_counts['items']:,} items and {raw_counts['interactions']:,} interactions.",
            hint="Lower --min-user or --min-item.",
        )
    user_ids, present_users = filters.contiguous(filters.ranks(raw_users), users[kept])
    item_ids, present_items = filters.contiguous(filters.ranks(raw_items), items[kept])
    timestamps = timestamps[kept]
    order = filters.by_user_and_time(user_ids, item_ids, timestamps, options["ties"])
    tables = Tables(
        user_ids[order],
        item_ids[order],
        timestamps[order],
        [raw_users[code] for code in present_users],
        [raw_items[code] for code in present_items],
    )
    return tables, raw_counts


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Integer codes from 0 by first appearance, and the raw id of each."""
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _counts(users: np.ndarray, n_users: int, n_items: int) -> dict[str, float]:
    lengths = np.bincount(users)
    return {
        "users": n_users,
        "items": n_items,
        "interactions": len(users),
        "mean_length": round(len(users) / n_users, 1),
        "max_length": int(lengths.max()),
    }


def _meta(
    spec: DatasetSpec,
    options: dict[str, Any],
    loaded: _Loaded,
    tables: Tables,
    raw_counts: dict[str, float],
) -> dict[str, Any]:
    """The content of meta.json."""
    counts = _counts(tables.users, len(tables.raw_users), len(tables.raw_items))
    default = (options["min_user"], options["min_item"]) == (spec.min_user, spec.min_item)
    compared = default and spec.expected is not None
    meta = {
        "schema_version": SCHEMA_VERSION,
        "name": spec.name,
        "title": spec.title,
        "seqbench": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fingerprint": fingerprint_of(tables.users, tables.items, tables.timestamps),
        "source": loaded.source,
        "options": options,
        "filters": {"rule": "k-core", "min_user": options["min_user"], "min_item": options["min_item"]},
        "duplicates": options["duplicates"],
        "ties": options["ties"],
        "timestamp_unit": spec.timestamp_unit,
        "max_len": spec.max_len,
        "splits": list(spec.splits),
        "raw_counts": raw_counts,
        "counts": counts,
        "expected": asdict(spec.expected) if spec.expected else None,
        "compared": compared,  # whether counts and expected are of the same filters
        "count_mismatch": _mismatch(spec, raw_counts, counts) if compared else None,
        "malformed": [asdict(entry) for entry in loaded.raw.malformed],
        "licence": spec.licence,
        "citation": spec.citation,
    }
    if loaded.generated is not None:
        users = np.array(tables.raw_users, np.int64) - 1
        items = np.array(tables.raw_items, np.int64) - 1
        meta["ceiling"] = ceiling(loaded.generated, items, users, back=1)
        meta["ceiling_validation"] = ceiling(loaded.generated, items, users, back=2)
        meta["dropped_items"] = loaded.generated.process.items - len(items)
    return meta


def _mismatch(spec: DatasetSpec, raw_counts: dict[str, float], counts: dict[str, float]) -> str | None:
    """Words for every count that differs from the published one, or None."""
    assert spec.expected is not None
    words = []
    for prefix, ours, published in (
        ("raw ", raw_counts, spec.expected.raw),
        ("", counts, spec.expected.prepared),
    ):
        if published is not None:
            words += [
                f"{prefix}{key} {ours[key]:,} (published {value:,})"
                for key, value in asdict(published).items()
                if ours[key] != value
            ]
    return ", ".join(words) or None
