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
from seqbench.data.parsers.times import READ, AmbiguousDates
from seqbench.data.parsers.user_file import UserFile
from seqbench.data.resolve import Request
from seqbench.data.synthetic import Generated
from seqbench.errors import SeqbenchError, UsageError
from seqbench.show.counting import counting


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
    with counting("Generated", "interactions") as report:
        generated = synthetic.generate(options, report)
    collector = Collector("the generated data")
    for users, items, timestamps in generated.blocks():
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
    _tell(log, str(files))
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
        splits=spec.splits if form.timed else SPLITS[:1],
        titles=titles,
        expected=files.source.raw or (spec.expected.raw if spec.expected else None),
    )


def _user_file(request: Request, file: RawFile, *, ratings: bool) -> Reading:
    path = file.path
    found, digest = _with_dates(file, request.columns or {}, ratings=ratings)
    _tell(found.log, str(path))
    positioned = POSITION in found.log
    if found.columns and not found.timed and not positioned:
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


def _with_dates(file: RawFile, columns: dict[str, str], *, ratings: bool) -> tuple[UserFile, str]:
    """Read a user's own file, twice where the first dates such as 3/4/2011 do not tell their days from their months.

    Returns:
        The rows, and the sha256 of the content.

    Raises:
        UsageError: no date in the file tells.
    """

    def once(day_first: bool | None) -> tuple[UserFile, str]:
        with archives.opened(file) as (stream, sha256):
            where = str(file.path)
            found = user_file.interactions(stream, where, file.path, columns, ratings=ratings, day_first=day_first)
            return found, sha256()

    try:
        return once(None)
    except AmbiguousDates:
        ways, errors = [], []
        for day_first in (False, True):
            try:
                ways.append(once(day_first))
            except SeqbenchError as error:
                errors.append(error)
    right = [way for way in ways if not any("timestamp" in each.kind for each in way[0].log.malformed)]
    if len(right) == 1:
        return right[0]
    if not ways:
        raise errors[0]
    raise UsageError(
        f"{file.path}: its dates can be read in two ways, with the month or with the day first: none has a day after "
        "the 12th.",
        hint=f"Write them as 2011-03-13. {READ}",
    )


def _tell(log: Log, where: str) -> None:
    for malformed in log.malformed:
        console.warn(f"{where}: rows left out, {malformed}.")
    for note in log.notes:
        console.note(f"{where}: {note}")
