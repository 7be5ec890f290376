"""From raw files to interactions, or from the generator to them: everything before the first filter."""

from dataclasses import dataclass, field
from typing import Any

from seqbench import console
from seqbench.columns import ITEM, POSITION, SPLIT, TIMESTAMP, USER
from seqbench.data import archives, download, synthetic
from seqbench.data.archives import RawFile, RawFiles
from seqbench.data.catalog import GIVEN, SPLITS, Counts
from seqbench.data.log import Log, finer
from seqbench.data.obtain import Obtained
from seqbench.data.parsers import FORMATS, TITLES, user_file
from seqbench.data.parsers.rows import Collector
from seqbench.data.resolve import Request
from seqbench.data.synthetic import Generated
from seqbench.errors import SeqbenchError


@dataclass
class Reading:
    """The interactions of a source before any filtering, and where they came from."""

    log: Log
    source: dict[str, Any]  # for meta.json
    unit: str  # of the timestamps; "rows" where there is only an order
    splits: tuple[str, ...]  # that make sense; the first is the default
    titles: dict[str, str] = field(default_factory=dict)  # raw item id → title
    expected: Counts | None = None  # published counts of the raw files
    generated: Generated | None = None


def read(request: Request, obtained: Obtained) -> Reading:
    """Read raw files.

    Raises:
        UsageError: it is not clear which column of the user's file is which.
        SeqbenchError: a file is damaged, empty, or malformed past the limit.
    """
    ratings = request.spec.filters.min_rating is not None
    if isinstance(obtained.files, RawFile):
        return _user_file(request, obtained.files, ratings=ratings)
    return _published(request, obtained, obtained.files, ratings=ratings)


def generate(request: Request) -> Reading:
    """Draw synthetic interactions."""
    options = request.generated
    assert options is not None
    console.note(f"Generating {options.users:,} users × {options.length} of {options.items:,} items …")
    generated = synthetic.generate(options)
    users, items, timestamps = generated.rows()
    collector = Collector("the generated data")
    collector.add({USER: users, ITEM: items, TIMESTAMP: timestamps})
    return Reading(
        collector.finish(),
        source={"label": f"generated, seed {options.seed}", "process": synthetic.describe(options)},
        unit=request.spec.timestamp_unit,
        splits=request.spec.splits,
        generated=generated,
    )


def _published(request: Request, obtained: Obtained, files: RawFiles, *, ratings: bool) -> Reading:
    spec = request.spec
    first = files.interactions[0]
    form = FORMATS[first.format]
    try:
        with archives.opened(*files.interactions) as (stream, sha256):
            log = form.parse(stream, str(files), ratings=ratings)
            digest = sha256()
    except SeqbenchError as error:
        # Without a checksum, nothing but its content could tell that it is not the file.
        if obtained.fetched and not files.source.pinned and download.forget(first.path):
            error.hint = "The file is deleted. Repeat the command to fetch it anew."
        raise
    titles: dict[str, str] = {}
    if files.items:
        with archives.opened(files.items) as (stream, _):
            titles = TITLES[files.items.format](stream)
    if first.sha256 and digest not in first.sha256:
        console.warn(f"{files} is not the published file: its sha256 is {digest} instead of {first.sha256[0]}.")
    _warn_of_malformed(log, str(files))
    packed = first.path.suffix == ".gz" or first.member
    return Reading(
        log,
        source={
            "label": obtained.label,
            "file": first.path.name,
            "member": first.member,
            "format": first.format,
            "file_sha256": archives.sha256_of(first.path) if packed else digest,
            "interactions_sha256": digest,
        },
        unit=finer(spec.timestamp_unit, log.time_scale) if form.timed else "rows",
        splits=spec.splits,
        titles=titles,
        expected=files.source.raw or (spec.expected.raw if spec.expected else None),
    )


def _user_file(request: Request, file: RawFile, *, ratings: bool) -> Reading:
    path = file.path
    with archives.opened(file) as (stream, sha256):
        found = user_file.interactions(stream, str(path), path, request.columns or {}, ratings=ratings)
        digest = sha256()
    _warn_of_malformed(found.log, str(path))
    positioned = POSITION in found.log
    if not found.columns:
        console.note(f"{path} is read as lines 'user item item …', whose order is the order of events.")
    elif not found.timed and not positioned:
        console.note(f"{path} has no time: the order of its rows is the order of events.")
    file_digest = archives.sha256_of(path)
    return Reading(
        found.log,
        source={
            "label": str(path),
            "file": path.name,
            "member": None,
            "format": user_file.ending(path),
            "columns": found.columns,
            "file_sha256": file_digest,
            "interactions_sha256": file_digest if user_file.ending(path) == "parquet" else digest,
        },
        unit=found.unit,
        splits=(*([GIVEN] if SPLIT in found.log else []), *(SPLITS if found.timed and not positioned else SPLITS[:1])),
    )


def _warn_of_malformed(log: Log, where: str) -> None:
    for malformed in log.malformed:
        console.warn(f"{where}: rows left out, {malformed}.")
