"""Raw files → a prepared data set: duplicates, k-core, order, contiguous ids, Parquet.

Ids run from 1 (0 is padding) in the order of the raw ids, compared as numbers when all raw ids of the source
are digits and as text otherwise; so they do not depend on the order of the file.
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqbench import __version__, console, paths
from seqbench.data import download, filters, parsers
from seqbench.data import raw as rawfiles
from seqbench.data import synthetic as synthesis
from seqbench.data.catalog import (
    DUPLICATES,
    GIVEN,
    REPEATS,
    RULES,
    TIES,
    Counts,
    DatasetSpec,
    Expected,
    check_name,
    get_spec,
    own_spec,
)
from seqbench.data.ceiling import ceiling
from seqbench.data.parsers import own
from seqbench.data.parsers.rows import IN_PARTS, MARKS, ROLES, Collector, RawInteractions
from seqbench.data.prepared import META, SCHEMA_VERSION, PreparedDataset, fingerprint_of
from seqbench.data.store import Tables, write_prepared
from seqbench.data.synthetic import SyntheticOptions
from seqbench.errors import SeqbenchError, StorageError, UsageError
from seqbench.locking import locked

SAMPLE_SEED = 0

# The options that change the counts, which are comparable with the published ones if all are as in the entry.
FILTERING = ("min_user", "min_item", "rule", "min_rating", "duplicates", "repeats", "max_users")


@dataclass(frozen=True)
class Choices:
    """How a data set is to be prepared, where that differs from its entry. None: as in the entry."""

    min_user: int | None = None  # users keep at least this many interactions
    min_item: int | None = None  # and items this many
    rule: str | None = None  # see filters.core
    min_rating: float | None = None  # interactions with a lower rating are dropped first
    duplicates: str | None = None  # of a user-item pair: "none" is dropped, the "first" or the "last" is kept
    repeats: str | None = None  # of an item right after itself: "keep", "drop"
    ties: str | None = None  # order of equal timestamps: "file", "item"
    max_users: int | None = None  # a sample of the users that pass the filters, for a quick look


@dataclass
class _Loaded:
    """The interactions of a source before any filtering, and where they came from."""

    raw: RawInteractions
    titles: dict[str, str]
    source: dict[str, Any]  # for meta.json
    unit: str  # of the timestamps
    splits: tuple[str, ...]
    expected_raw: Counts | None = None
    generated: synthesis.Generated | None = None


def prepare(
    dataset: str | DatasetSpec,
    *,
    home: Path,
    raw: Path | None = None,
    choices: Choices | None = None,
    name: str | None = None,
    synthetic: SyntheticOptions | None = None,
    force: bool = False,
    offline: bool = False,
) -> PreparedDataset:
    """Fetch or generate, filter, reindex and store a data set in `paths.prepared(home)`.

    A data set that is there already with the same options is returned as it is.

    Args:
        dataset: a name in datasets.yaml, or an entry.
        home: holds downloads/ and prepared/.
        raw: read this archive, folder or file instead of downloading.
        choices: departures from the entry.
        name: store it under this name instead of its own.
        synthetic: the size of generated data; only for entries with a generator.
        force: prepare again even if nothing changed.
        offline: fetch nothing.

    Raises:
        UsageError: the name is unknown, or options do not fit the data set.
        StorageError: the disk is full, or the folder cannot be written to.
        SeqbenchError: no source works, a raw file is malformed, or no interaction passes the filters.
    """
    spec = get_spec(dataset) if isinstance(dataset, str) else dataset
    if name is not None:
        check_name(name)
    options = _options(spec, raw, choices or Choices(), synthetic)

    def load() -> _Loaded:
        if spec.generator is not None:
            return _generate(spec, synthetic or SyntheticOptions())
        return _load(spec, home, raw, ratings=options["min_rating"] is not None, offline=offline)

    return _prepared(replace(spec, name=name or spec.name), home, options, load, force=force)


def prepare_all(
    names: Sequence[str],
    *,
    home: Path,
    force: bool = False,
    offline: bool = False,
    **options: Any,
) -> Iterator[PreparedDataset]:
    """Prepare several data sets in turn, after fetching all that they need, several files at once.

    One that fails does not keep the others from being prepared; the errors come last. A full disk ends it all.

    Args:
        options: of `prepare`.

    Raises:
        as `prepare`.
    """
    specs = [get_spec(name) for name in dict.fromkeys(names)]
    for spec in specs:  # an option that does not fit is said before anything is fetched
        _options(spec, options.get("raw"), options.get("choices") or Choices(), options.get("synthetic"))
    failed: dict[str, SeqbenchError] = {}
    if len(specs) > 1:
        needed = [spec for spec in specs if spec.sources and (force or not paths.prepared(home, spec.name).is_dir())]
        failed = download.fetch_all(needed, home, offline=offline)
    for spec in specs:
        if spec.name in failed:
            continue
        try:
            prepared = prepare(spec, home=home, force=force, offline=offline, **options)
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


def prepare_own(
    name: str,
    raw: Path,
    *,
    home: Path,
    columns: dict[str, str] | None = None,
    choices: Choices | None = None,
    force: bool = False,
) -> PreparedDataset:
    """Prepare a file of the user's under a name of the user's. Nothing is dropped unless `choices` ask for it.

    Args:
        columns: role ("user", "item", "time", "rating", "position", "split") → column; see parsers/own.py.

    Raises:
        as `prepare`.
    """
    spec = replace(own_spec(name), title=raw.name)
    columns = columns or {}
    if unknown := [role for role in columns if role not in ROLES]:
        raise UsageError(f"--columns knows no '{unknown[0]}'.", hint=f"It knows {', '.join(ROLES)}.")
    options = _options(spec, raw, choices or Choices(), None) | {"columns": columns}
    return _prepared(
        spec, home, options, lambda: _load_own(raw, columns, ratings=options["min_rating"] is not None), force=force
    )


def _prepared(
    spec: DatasetSpec, home: Path, options: dict[str, Any], load: Callable[[], _Loaded], *, force: bool
) -> PreparedDataset:
    folder = paths.prepared(home, spec.name)
    with locked(folder.parent / f".{folder.name}.lock", f"it is preparing {spec.name}"):
        if not force and (ready := _reusable(folder, options)):
            console.note(f"{spec.name} is already prepared in {folder}; --force prepares it again.")
            return ready
        loaded = load()
        raw_counts = _counts(loaded.raw.users, len(loaded.raw.raw_users), len(loaded.raw.raw_items))
        tables = _filter(spec, loaded, options, raw_counts)
        meta = _meta(spec, options, loaded, tables, raw_counts)
        write_prepared(folder, tables, loaded.titles, meta)
        if meta["count_mismatch"]:
            console.warn(f"{spec.name} does not have the published size: {meta['count_mismatch']}.")
        return PreparedDataset(folder)


def _options(
    spec: DatasetSpec, raw: Path | None, choices: Choices, synthetic: SyntheticOptions | None
) -> dict[str, Any]:
    """What decides the outcome, checked and with the defaults filled in. Kept in meta.json to be compared."""
    for flag, value in (("--min-user", choices.min_user), ("--min-item", choices.min_item)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be at least 1, not {value}.", hint=f"{flag} 1 keeps everything.")
    if choices.max_users is not None and choices.max_users < 1:
        raise UsageError(f"--max-users must be at least 1, not {choices.max_users}.")
    for flag, word, allowed in (
        ("--ties", choices.ties, TIES),
        ("--rule", choices.rule, RULES),
        ("--duplicates", choices.duplicates, DUPLICATES),
        ("--repeats", choices.repeats, REPEATS),
    ):
        if word is not None and word not in allowed:
            raise UsageError(f"{flag} must be {' or '.join(allowed)}, not '{word}'.")
    if spec.generator is None and synthetic is not None:
        raise UsageError(
            f"{spec.name} is not generated: --users, --items, --length and --seed do not apply.",
            hint="They belong to `seqbench prepare synthetic`.",
        )
    if spec.generator is not None and raw is not None:
        raise UsageError(f"{spec.name} is generated: --raw does not apply.")
    unrated = bool(spec.generator) or any(s.interactions.format in parsers.UNRATED for s in spec.sources)
    if choices.min_rating is not None and unrated:
        raise UsageError(f"{spec.name} has no ratings: --min-rating does not apply.")
    options: dict[str, Any] = {
        "dataset": spec.title,
        "min_user": spec.min_user if choices.min_user is None else choices.min_user,
        "min_item": spec.min_item if choices.min_item is None else choices.min_item,
        "rule": choices.rule or spec.rule,
        "min_rating": choices.min_rating,
        "duplicates": choices.duplicates or spec.duplicates,
        "repeats": choices.repeats or spec.repeats,
        "ties": choices.ties or spec.ties,
        "max_users": choices.max_users,
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


def _load(spec: DatasetSpec, home: Path, raw: Path | None, *, ratings: bool, offline: bool) -> _Loaded:
    """Get hold of the interactions: given by the user, or downloaded."""
    if raw is not None:
        files, fetched = rawfiles.locate(spec, raw), False
    else:
        source, path = download.fetch(spec, home, offline=offline)
        files, fetched = rawfiles.locate(spec, path, source), True
    first = files.interactions[0]
    where = " and ".join(map(str, files.interactions))
    try:
        with rawfiles.opened(*files.interactions) as (stream, sha256):
            interactions = parsers.load(parsers.INTERACTIONS, first.format)(stream, where, ratings=ratings)
            digest = sha256()
    except SeqbenchError as error:
        # Without a checksum, nothing but its content could tell that it is not the file.
        if fetched and not files.source.pinned and download.forget(first.path):
            error.hint = "The file is deleted. Repeat the command to fetch it anew."
        raise
    titles: dict[str, str] = {}
    if files.items:
        with rawfiles.opened(files.items) as (stream, _):
            titles = parsers.load(parsers.TITLES, files.items.format)(stream)
    if first.sha256 and digest not in first.sha256:
        console.warn(f"{where} is not the published file: its sha256 is {digest} instead of {first.sha256[0]}.")
    _warn_of_malformed(interactions, where)
    unit = "rows" if first.format in parsers.UNTIMED else spec.timestamp_unit
    unit = IN_PARTS[unit] if interactions.in_parts else unit
    return _Loaded(
        interactions,
        titles,
        {
            "label": f"{files.source.label}, {files.source.location}" if fetched else str(raw),
            "file": first.path.name,
            "member": first.member,
            "format": first.format,
            "file_sha256": digest
            if first.path.suffix != ".gz" and not first.member
            else rawfiles.sha256_of(first.path),
            "interactions_sha256": digest,
        },
        unit=unit,
        splits=spec.splits,
        expected_raw=files.source.raw or (spec.expected.raw if spec.expected else None),
    )


def _load_own(raw: Path, columns: dict[str, str], *, ratings: bool) -> _Loaded:
    """Read a file of the user's."""
    file = rawfiles.own_file(raw)
    with rawfiles.opened(file) as (stream, sha256):
        found = own.interactions(stream, str(raw), raw, columns, ratings=ratings)
        digest = sha256()
    _warn_of_malformed(found.raw, str(raw))
    if not found.columns:
        console.note(f"{raw} is read as lines 'user item item …', whose order is the order of events.")
    elif not found.timed and found.raw.positions is None:
        console.note(f"{raw} has no time: the order of its rows is the order of events.")
    in_time = found.timed and found.raw.positions is None
    splits = ((GIVEN,) if found.raw.marks is not None else ()) + (("leave-one-out", "temporal")[: 2 if in_time else 1])
    return _Loaded(
        found.raw,
        {},
        {
            "label": str(raw),
            "file": raw.name,
            "member": None,
            "format": own.ending(raw),
            "columns": found.columns,
            "file_sha256": rawfiles.sha256_of(raw),
            "interactions_sha256": digest if own.ending(raw) != "parquet" else rawfiles.sha256_of(raw),
        },
        unit=found.unit,
        splits=splits,
    )


def _warn_of_malformed(interactions: RawInteractions, where: str) -> None:
    for malformed in interactions.malformed:
        console.warn(f"{where}: rows left out, {malformed}.")


def _generate(spec: DatasetSpec, options: SyntheticOptions) -> _Loaded:
    console.note(f"Generating {options.users:,} users × {options.length} of {options.items:,} items …")
    generated = synthesis.generate(options)
    users, items, timestamps = generated.rows()
    collector = Collector("the generated data")
    collector.add({"user": users, "item": items, "time": timestamps})
    source = {"label": f"generated, seed {options.seed}", "process": synthesis.describe(options)}
    return _Loaded(collector.finish(), {}, source, spec.timestamp_unit, spec.splits, generated=generated)


class _Rows:
    """The columns of a table, changed one at a time so that little is held twice."""

    def __init__(self, raw: RawInteractions) -> None:
        columns = {
            "users": raw.users,
            "items": raw.items,
            "timestamps": raw.timestamps,
            "ratings": raw.ratings,
            "positions": raw.positions,
            "marks": raw.marks,
        }
        self.columns = {name: values for name, values in columns.items() if values is not None}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def select(self, chosen: np.ndarray) -> None:
        """Keep the rows of a mask."""
        if chosen.all():
            return
        for name in self.columns:
            self.columns[name] = filters.select(self.columns[name], chosen)


def _filter(spec: DatasetSpec, loaded: _Loaded, options: dict[str, Any], raw_counts: dict[str, float]) -> Tables:
    """Ratings, order, repeats, duplicates, core, sample, contiguous ids: in this order."""
    raw = loaded.raw
    rows = _Rows(raw)
    none = np.empty(0, np.int32)
    raw = loaded.raw = replace(raw, users=none, items=none, timestamps=none, ratings=None, positions=None, marks=None)
    if options["min_rating"] is not None:
        rows.select(rows["ratings"] >= options["min_rating"])
        del rows.columns["ratings"]
    if "positions" in rows:
        keys = ["positions"]
    else:
        keys = ["timestamps", "items"] if options["ties"] == "item" else ["timestamps"]
    filters.sort_by_user(rows.columns, keys)
    if options["repeats"] == "drop":
        rows.select(filters.no_repeats(rows["users"], rows["items"]))
    if options["duplicates"] != "none":
        rows.select(filters.one_of_each_pair(rows["users"], rows["items"], options["duplicates"]))
    users, items = filters.core(rows["users"], rows["items"], options["min_user"], options["min_item"], options["rule"])
    if options["max_users"] is not None and users.sum() > options["max_users"]:
        generator = np.random.default_rng(SAMPLE_SEED)
        dropped = generator.permutation(np.flatnonzero(users))[options["max_users"] :]
        users[dropped] = False
    rows.select(filters.both(users, rows["users"], items, rows["items"]))
    if not len(rows["users"]):
        rated = options["min_rating"] is not None
        limits = f"ratings from {options['min_rating']:g}, " if rated else ""
        limits += f"at least {options['min_user']} per user and {options['min_item']} per item"
        raise SeqbenchError(
            f"No interaction of {spec.name} passes the filters ({limits}). "
            f"Before them there were {raw_counts['users']:,} users, "
            f"{raw_counts['items']:,} items and {raw_counts['interactions']:,} interactions.",
            hint=f"Lower {'--min-rating, ' if rated else ''}--min-user or --min-item.",
        )
    used_users = filters.contiguous(rows["users"], len(raw.raw_users))
    used_items = filters.contiguous(rows["items"], len(raw.raw_items))
    raw_users, raw_items = raw.raw_users.filter(pa.array(used_users)), raw.raw_items.filter(pa.array(used_items))
    marks = rows.columns.get("marks")
    if marks is not None:
        _check_marks(rows["users"], marks, raw_users)
    return Tables(rows["users"], rows["items"], rows["timestamps"], raw_users, raw_items, marks)


def _check_marks(users: np.ndarray, marks: np.ndarray, raw_users: pa.Array) -> None:
    back = np.flatnonzero((users[1:] == users[:-1]) & (marks[1:] < marks[:-1]))
    if len(back):
        at = back[0]
        raise SeqbenchError(
            f"The split is not in the order of events: user {raw_users[int(users[at]) - 1]} has a row marked "
            f"{MARKS[marks[at + 1]]} after one marked {MARKS[marks[at]]} ({len(back):,} such places).",
            hint="Give a time or position column in which every user's training comes before validation and test.",
        )


def _counts(users: np.ndarray, n_users: int, n_items: int) -> dict[str, float]:
    return {
        "users": n_users,
        "items": n_items,
        "interactions": len(users),
        "mean_length": round(len(users) / n_users, 1),
        "max_length": int(filters.count(users).max()),
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
    filtering = {key: options[key] for key in FILTERING}
    default = all(value == getattr(spec, key, None) for key, value in filtering.items())
    expected = Expected(spec.expected.source, spec.expected.prepared, loaded.expected_raw) if spec.expected else None
    compared = default and expected is not None and expected.prepared is not None
    meta = {
        "schema_version": SCHEMA_VERSION,
        "name": spec.name,
        "title": spec.title,
        "seqbench": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fingerprint": fingerprint_of(tables.users, tables.items, tables.timestamps, tables.marks),
        "source": loaded.source,
        "options": options,
        "filters": filtering,
        "ties": options["ties"],
        "timestamp_unit": loaded.unit,
        "max_len": spec.max_len,
        "splits": list(loaded.splits),
        "raw_counts": raw_counts,
        "counts": counts,
        "expected": asdict(expected) if expected else None,
        "compared": compared,  # whether counts and expected are of the same filters
        "count_mismatch": _mismatch(expected, raw_counts, counts, default=default) if expected else None,
        "malformed": [asdict(entry) for entry in loaded.raw.malformed],
        "licence": spec.licence,
        "citation": spec.citation,
    }
    if loaded.generated is not None:
        users, items = (ids.cast(pa.int64()).to_numpy() - 1 for ids in (tables.raw_users, tables.raw_items))
        meta["ceiling"] = ceiling(loaded.generated, items, users, back=1)
        meta["ceiling_validation"] = ceiling(loaded.generated, items, users, back=2)
        meta["dropped_items"] = loaded.generated.process.items - len(items)
    return meta


def _mismatch(
    expected: Expected, raw_counts: dict[str, float], counts: dict[str, float], *, default: bool
) -> str | None:
    """Words for every count that differs from the published one, or None. Prepared counts: of the same filters only."""
    words = []
    for prefix, ours, published in (
        ("raw ", raw_counts, expected.raw),
        ("", counts, expected.prepared if default else None),
    ):
        if published is not None:
            words += [
                f"{prefix}{key} {ours[key]:,} (published {value:,})"
                for key, value in asdict(published).items()
                if value is not None and ours[key] != value
            ]
    return ", ".join(words) or None
