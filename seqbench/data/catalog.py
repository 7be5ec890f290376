"""datasets.yaml → `DatasetSpec`. Importing this module is cheap: completion and `--help` use it."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from seqbench import paths
from seqbench.data import parsers
from seqbench.errors import SeqbenchError, unknown_name

DUPLICATES = ("none", "first")  # keep all rows, or the earliest of each user-item pair
TIES = ("file", "item")  # order of equal timestamps: that of the source file, or of the raw item ids
SPLITS = ("leave-one-out", "temporal")
TIMESTAMP_UNITS = ("seconds", "milliseconds", "days")
GENERATORS = ("synthetic",)


@dataclass(frozen=True)
class Member:
    """One file of a source: a member of an archive, or a file that a user may hold on its own."""

    path: str  # inside the archive, "/" between folders
    format: str  # a name in seqbench.data.parsers
    sha256: str | None = None

    @property
    def basename(self) -> str:
        """The name of the file without its folders."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """One place to fetch a data set from: exactly one of `url` and `pypi` is set."""

    label: str
    filename: str  # as stored below downloads/
    interactions: Member
    items: Member | None = None
    url: str | None = None
    pypi: str | None = None  # a pinned requirement, "recbole==1.2.1"
    size: int | None = None  # bytes
    md5: str | None = None
    sha256: str | None = None

    @property
    def location(self) -> str:
        """The URL, or the requirement, in the words a user could type."""
        return self.url or f"pip download {self.pypi}"


@dataclass(frozen=True)
class Counts:
    """The size of a data set."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Expected:
    """Published counts to compare with."""

    prepared: Counts  # with the default filters
    source: str
    raw: Counts | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of datasets.yaml."""

    name: str
    title: str
    timestamp_unit: str
    duplicates: str
    ties: str
    min_user: int  # k-core, iterated to its fixed point: users keep at least this many interactions,
    min_item: int  # and items this many
    splits: tuple[str, ...]
    max_len: int  # most recent items that a model sees by default
    licence: str
    citation: str
    sources: tuple[Source, ...] = ()
    generator: str | None = None  # generated here instead of fetched
    homepage: str | None = None
    expected: Expected | None = None


def load_catalog() -> dict[str, DatasetSpec]:
    """All data sets that seqbench knows, by name, in the order of datasets.yaml.

    Raises:
        SeqbenchError: the file is missing or wrong; the message names the entry and the field.
    """
    return dict(_load(paths.shipped("datasets.yaml")))


def get_spec(name: str) -> DatasetSpec:
    """The entry called `name`.

    Raises:
        UsageError: there is none; the message suggests the nearest name.
    """
    catalog = load_catalog()
    if name not in catalog:
        raise unknown_name("Data set", name, catalog, "seqbench list datasets")
    return catalog[name]


@functools.cache
def _load(path: Path) -> dict[str, DatasetSpec]:
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SeqbenchError(
            f"The catalogue of data sets {path} cannot be read: {error}.",
            hint="Install seqbench again: `pip install --force-reinstall seqbench`.",
        ) from error
    return parse_catalog(entries)


def parse_catalog(entries: Any) -> dict[str, DatasetSpec]:
    """Check the content of a datasets.yaml and turn it into specs.

    Raises:
        SeqbenchError: naming the first entry and field that is wrong.
    """
    if not isinstance(entries, dict):
        raise SeqbenchError("datasets.yaml must map data set names to entries.")
    return {str(name): _spec(str(name), fields) for name, fields in entries.items()}


class _Fields:
    """Takes typed fields out of one mapping and complains, with the path to the field, about the others."""

    def __init__(self, entry: str, fields: Any, prefix: str = "") -> None:
        self.entry = entry
        self.prefix = prefix
        if not isinstance(fields, dict):
            self.wrong("", "must be a mapping")
        self.fields = dict(fields)

    def wrong(self, field: str, why: str) -> NoReturn:
        place = f"{self.prefix}{field}".rstrip(".") or "(whole entry)"
        raise SeqbenchError(
            f"datasets.yaml, entry {self.entry}, field {place}: {why}.",
            hint="Compare it with the entry ml-100k.",
        )

    def _take(self, field: str, kind: type, required: bool) -> Any:
        value = self.fields.pop(field, None)
        if value is None:
            if required:
                self.wrong(field, "is missing")
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            self.wrong(field, f"must be {_KINDS[kind]}, not {value!r}")
        return value

    def text(self, field: str) -> str:
        return cast(str, self._take(field, str, True)).strip()

    def optional_text(self, field: str) -> str | None:
        return cast("str | None", self._take(field, str, False))

    def count(self, field: str) -> int:
        value = cast(int, self._take(field, int, True))
        if value < 1:
            self.wrong(field, f"must be at least 1, not {value}")
        return value

    def choice(self, field: str, allowed: tuple[str, ...]) -> str:
        value = self.text(field)
        if value not in allowed:
            self.wrong(field, f"must be one of {', '.join(allowed)}, not '{value}'")
        return value

    def hexadecimal(self, field: str, digits: int) -> str | None:
        value = self.optional_text(field)
        if value is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
            self.wrong(field, f"must be {digits} lower-case hexadecimal digits")
        return value

    def sequence(self, field: str, *, required: bool = True) -> list[Any]:
        return self._take(field, list, required) or []

    def section(self, field: str) -> "_Fields":
        return _Fields(self.entry, self._take(field, dict, True), f"{self.prefix}{field}.")

    def has(self, field: str) -> bool:
        return self.fields.get(field) is not None

    def done(self) -> None:
        for field in self.fields:
            self.wrong(field, "is not a field that seqbench knows")


_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "a mapping"}


def _spec(name: str, entry: Any) -> DatasetSpec:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        # The name becomes a folder: nothing in it may lead out of the one where data sets live.
        raise SeqbenchError(f"datasets.yaml: '{name}' must be lower-case letters, digits, '-' and '.'.")
    fields = _Fields(name, entry)
    filters = fields.section("filters")
    splits = fields.sequence("splits")
    if not splits or any(split not in SPLITS for split in splits):
        fields.wrong("splits", f"must be some of {', '.join(SPLITS)}")
    sources = tuple(
        _source(_Fields(name, source, f"sources[{index}]."))
        for index, source in enumerate(fields.sequence("sources", required=False))
    )
    generator = fields.choice("generator", GENERATORS) if fields.has("generator") else None
    if bool(sources) == bool(generator):
        fields.wrong("sources", "either sources or a generator is needed")
    spec = DatasetSpec(
        name=name,
        title=fields.text("title"),
        timestamp_unit=fields.choice("timestamp_unit", TIMESTAMP_UNITS),
        duplicates=fields.choice("duplicates", DUPLICATES),
        ties=fields.choice("ties", TIES),
        min_user=filters.count("min_user"),
        min_item=filters.count("min_item"),
        splits=tuple(splits),
        max_len=fields.count("max_len"),
        licence=fields.text("licence"),
        citation=fields.text("citation"),
        sources=sources,
        generator=generator,
        homepage=fields.optional_text("homepage"),
        expected=_expected(fields.section("expected")) if fields.has("expected") else None,
    )
    filters.done()
    fields.done()
    return spec


def _source(fields: _Fields) -> Source:
    url, pypi = fields.optional_text("url"), fields.optional_text("pypi")
    if (url is None) == (pypi is None):
        fields.wrong("url", "exactly one of url and pypi is needed")
    filename = fields.text("filename")
    if Path(filename).name != filename or filename.startswith("."):
        fields.wrong("filename", "must be a plain file name")
    source = Source(
        label=fields.text("label"),
        filename=filename,
        url=url,
        pypi=pypi,
        size=fields.count("size") if fields.has("size") else None,
        md5=fields.hexadecimal("md5", 32),
        sha256=fields.hexadecimal("sha256", 64),
        interactions=_member(fields.section("interactions"), parsers.INTERACTIONS),
        items=_member(fields.section("items"), parsers.TITLES) if fields.has("items") else None,
    )
    fields.done()
    return source


def _member(fields: _Fields, formats: dict[str, str]) -> Member:
    member = Member(
        path=fields.text("member"),
        format=fields.choice("format", tuple(formats)),
        sha256=fields.hexadecimal("sha256", 64),
    )
    fields.done()
    return member


def _expected(fields: _Fields) -> Expected:
    expected = Expected(
        prepared=_counts(fields.section("prepared")),
        source=fields.text("source"),
        raw=_counts(fields.section("raw")) if fields.has("raw") else None,
    )
    fields.done()
    return expected


def _counts(fields: _Fields) -> Counts:
    counts = Counts(fields.count("users"), fields.count("items"), fields.count("interactions"))
    fields.done()
    return counts
