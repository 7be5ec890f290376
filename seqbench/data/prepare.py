"""From a name to a prepared data set: resolve, obtain, read, filter, index, write, open.

Ids run from 1 (0 is padding) in the order of the raw ids, compared as numbers when all raw ids of the source are digits
and as text otherwise; so they do not depend on the order of the file.
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqbench import __version__, console, paths
from seqbench.data import download, spill
from seqbench.data.catalog import DatasetSpec, Expected, get_spec
from seqbench.data.ceiling import ceiling, ranked_users
from seqbench.data.filters import Filters
from seqbench.data.index import count, index, mismatch
from seqbench.data.log import Log
from seqbench.data.obtain import obtain
from seqbench.data.prepared import META, SCHEMA_VERSION, PreparedDataset
from seqbench.data.reading import Reading, generate, read
from seqbench.data.resolve import Request, resolve
from seqbench.data.synthetic import SyntheticOptions
from seqbench.data.writer import restore, write_prepared
from seqbench.errors import SeqbenchError, StorageError
from seqbench.locking import locked


def prepare(
    dataset: str | DatasetSpec,
    *,
    home: Path,
    name: str | None = None,
    raw: Path | None = None,
    columns: dict[str, str] | None = None,
    synthetic: SyntheticOptions | None = None,
    force: bool = False,
    offline: bool = False,
    memory: int | None = None,
    **filters: Any,
) -> PreparedDataset:
    """Fetch, read or generate a data set, filter and index it, and store it in `paths.prepared(home)`.

    A data set that is there already with the same options is returned as it is.

    Args:
        dataset: a name of the catalogue, an entry, or, with `raw`, a new name for a file of your own, of which nothing
            is dropped unless `filters` ask for it.
        home: holds downloads/ and prepared/.
        name: store it under this name instead of its own.
        raw: read this archive, folder or file instead of downloading.
        columns: role ("user", "item", "time", "rating", "position", "split") → column of your own file, by name, or by
            number from 1 where there is no header; what is not said is recognised by name.
        synthetic: the size of generated data; only for entries with a generator.
        force: prepare again even if nothing changed.
        offline: fetch nothing.
        memory: bytes to do with; rows that do not fit go to disk meanwhile. None for half of what is free.
        filters: departures from the filters of the entry, by the names of the fields of `Filters`.

    Raises:
        UsageError: a name is unknown or taken, or options do not fit the data set.
        StorageError: the disk is full, or the folder cannot be written to.
        SeqbenchError: no source works, a raw file is malformed, or no interaction passes the filters.
    """
    request = resolve(dataset, name=name, raw=raw, columns=columns, synthetic=synthetic, **filters)
    folder = paths.prepared(home, request.name)
    options = request.options()
    with (
        locked(folder.parent / f".{folder.name}.lock", f"it is preparing {request.name}"),
        spill.spilling(folder.parent, memory),
    ):
        restore(folder)
        if not force and (ready := _reusable(folder, options)):
            console.note(f"{request.name} is already prepared in {folder}; --force prepares it again.")
            return ready
        reading = generate(request) if request.generated else read(request, obtain(request, home, offline=offline))
        raw_counts = count(reading.log)
        log = request.spec.filters.apply(reading.log)
        _check_rows(log, request, raw_counts)
        log = index(log)
        meta = _meta(request, options, reading, log, raw_counts)
        write_prepared(folder, log, reading.titles, meta)
        if meta["count_mismatch"]:
            console.warn(f"{request.name} does not have the published size: {meta['count_mismatch']}.")
        return PreparedDataset(folder)


def prepare_all(
    names: Sequence[str],
    *,
    home: Path,
    force: bool = False,
    offline: bool = False,
    memory: int | None = None,
    **options: Any,
) -> Iterator[PreparedDataset]:
    """Prepare several data sets of the catalogue in turn, after fetching all that they need, several files at once.

    One that fails does not keep the others from being prepared; the errors come last. A full disk ends it all.

    Args:
        memory: as `prepare`.
        options: of `prepare`, those that `resolve` checks.

    Raises:
        as `prepare`.
    """
    specs = [get_spec(name) for name in dict.fromkeys(names)]
    for spec in specs:  # an option that does not fit is said before anything is fetched
        resolve(spec, **options)
    failed: dict[str, SeqbenchError] = {}
    if len(specs) > 1:
        needed = [spec for spec in specs if spec.sources and (force or not paths.prepared(home, spec.name).is_dir())]
        failed = download.fetch_all(needed, home, offline=offline)
    for spec in specs:
        if spec.name in failed:
            continue
        try:
            prepared = prepare(spec, home=home, force=force, offline=offline, memory=memory, **options)
        except StorageError:
            raise
        except SeqbenchError as error:
            failed[spec.name] = error
        else:
            yield prepared
    *others, last = failed.values() or (None,)
    for other in others:
        assert other is not None
        console.fail(other.message, other.hint)
    if last is not None:
        raise last


def _reusable(folder: Path, options: dict[str, Any]) -> PreparedDataset | None:
    """Return what is prepared already, if the options agree. Without --raw any source of the data will do."""
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


def _check_rows(log: Log, request: Request, raw_counts: dict[str, Any]) -> None:
    """Refuse a data set of which the filters leave nothing."""
    if len(log):
        return
    filters = request.spec.filters
    rated = filters.min_rating is not None
    limits = f"ratings from {filters.min_rating:g}, " if rated else ""
    limits += f"at least {filters.min_user} per user and {filters.min_item} per item"
    raise SeqbenchError(
        f"No interaction of {request.name} passes the filters ({limits}). "
        f"Before them there were {raw_counts['users']:,} users, "
        f"{raw_counts['items']:,} items and {raw_counts['interactions']:,} interactions.",
        hint=f"Lower {'--min-rating, ' if rated else ''}--min-user or --min-item.",
    )


def _meta(
    request: Request, options: dict[str, Any], reading: Reading, log: Log, raw_counts: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of meta.json."""
    spec = request.spec
    counts = count(log)
    expected = Expected(spec.expected.source, spec.expected.prepared, reading.expected) if spec.expected else None
    same_filters = _drops_the_same(spec.filters, request.published)
    compared = same_filters and expected is not None and expected.prepared is not None
    meta = {
        "schema_version": SCHEMA_VERSION,
        "name": request.name,
        "title": spec.title,
        "seqbench": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fingerprint": log.fingerprint(),
        "source": reading.source,
        "options": options,
        "filters": asdict(spec.filters),
        "timestamp_unit": reading.unit,
        "max_len": spec.max_len,
        "splits": _splits(reading.splits, spec.filters),
        "raw_counts": raw_counts,
        "counts": counts,
        "expected": asdict(expected) if expected else None,
        "compared": compared,  # whether counts and expected are of the same filters
        "count_mismatch": mismatch(expected, raw_counts, counts, same_filters=same_filters) if expected else None,
        "malformed": [asdict(entry) for entry in log.malformed],
        "licence": spec.licence,
        "citation": spec.citation,
    }
    if reading.generated is not None:
        users, items = (ids.cast(pa.int64()).to_numpy() - 1 for ids in (log.users, log.items))
        users = ranked_users(reading.generated, users)
        meta["ceiling_users"] = len(users)
        meta["ceiling"] = ceiling(reading.generated, items, users, back=1)
        meta["ceiling_validation"] = ceiling(reading.generated, items, users, back=2)
        meta["dropped_items"] = reading.generated.process.items - len(items)
    return meta


def _splits(splits: tuple[str, ...], filters: Filters) -> list[str]:
    """Return the splits that make sense: none by points in time if the rows are not quite in its order."""
    return [split for split in splits if not (split == "temporal" and filters.ties == "recbole")]


def _drops_the_same(filters: Filters, published: Filters) -> bool:
    """Return whether counts are comparable: the order of ties decides none."""
    return replace(filters, ties=published.ties) == published
