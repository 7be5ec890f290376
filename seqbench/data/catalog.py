"""datasets.yaml → `DatasetSpec`. Importing this module is cheap; completion and `--help` use it."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from seqbench import paths
from seqbench.data import parsers
from seqbench.errors import SeqbenchError, UsageError, unknown_name

DUPLICATES = ("none", "first", "last")  # keep all rows, or the earliest or latest of each user-item pair
REPEATS = ("keep", "drop")  # of an item right after itself
TIES = ("file", "item")  # order of equal timestamps: that of the source file, or of the raw item ids
RULES = ("k-core", "joint-once", "item-then-user-once")  # see filters.core
SPLITS = ("leave-one-out", "temporal")
GIVEN = "given"  # the split that the authors of a data set made
TIMESTAMP_UNITS = ("seconds", "milliseconds", "rows")  # rows: the source has no time, only an order
GENERATORS = ("synthetic",)

CATEGORY = "{category}"  # in an entry that stands for many data sets, such as amazon-2018:All_Beauty


@dataclass(frozen=True)
class Member:
    """One file of a source: a member of an archive, or a file that a user may hold on its own."""

    path: str  # inside the archive, "/" between folders, "//" between an archive and a member of it
    format: str  # a name in seqbench.data.parsers
    sha256: tuple[str, ...] = ()  # any of them will do: hosts re-pack files
    more: tuple[str, ...] = ()  # files that go on where this one ends

    @property
    def basename(self) -> str:
        """The name of the file without its folders."""
        return self.basenames[0]

    @property
    def basenames(self) -> tuple[str, ...]:
        """The names of all its files without their folders."""
        return tuple(path.rsplit("/", 1)[-1] for path in (self.path, *self.more))


@dataclass(frozen=True)
class Counts:
    """The size of a data set. None: no exact figure is published."""

    users: int | None
    items: int | None
    interactions: int | None


@dataclass(frozen=True)
class Source:
    """One place to get a data set from: `url`, `pypi`, or by hand."""

    label: str
    filename: str  # as stored below downloads/
    interactions: Member
    items: Member | None = None
    url: str | None = None
    mirrors: tuple[str, ...] = ()  # the same bytes elsewhere
    pypi: str | None = None  # a pinned requirement, "recbole==1.2.1"
    manual: str | None = None  # what a person has to do, where no program may fetch it
    size: int | None = None  # bytes
    md5: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    raw: Counts | None = None  # what it holds, where that is not what `Expected.raw` says

    @property
    def location(self) -> str:
        """The URL, the requirement, or the errand, in the words a user could type."""
        return self.url or (f"pip download {self.pypi}" if self.pypi else self.manual or "")

    @property
    def wanted(self) -> str:
        """What a person has to provide: an archive, or files that lie beside each other."""
        names = self.interactions.basenames
        return " and ".join(names) if self.filename in names else self.filename

    @property
    def pinned(self) -> bool:
        """Whether a checksum says which bytes are right."""
        return bool(self.sha256 or self.md5)


@dataclass(frozen=True)
class Expected:
    """Published counts to compare with."""

    source: str
    prepared: Counts | None = None  # with the default filters
    raw: Counts | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of datasets.yaml."""

    name: str
    title: str
    timestamp_unit: str
    duplicates: str
    ties: str
    min_user: int  # users keep at least this many interactions,
    min_item: int  # and items this many
    splits: tuple[str, ...]  # the first is the default
    max_len: int  # most recent items that a model sees by default
    licence: str
    citation: str
    rule: str = "k-core"
    repeats: str = "keep"
    sources: tuple[Source, ...] = ()
    generator: str | None = None  # generated here instead of fetched
    homepage: str | None = None
    expected: Expected | None = None
    downloads: str | None = None  # the data set with whose files this one shares a folder; None: it has its own

    @property
    def manual(self) -> bool:
        """Whether a person has to fetch it."""
        return bool(self.sources) and all(source.manual for source in self.sources)


@dataclass(frozen=True)
class Catalog:
    """Everything in datasets.yaml."""

    datasets: dict[str, DatasetSpec]  # by name, with the known categories of families
    families: dict[str, "_Fields"]  # entries that need a category

    def get(self, name: str) -> DatasetSpec | None:
        """The entry called `name`, made for it if it is any category of a family.

        Raises:
            SeqbenchError: the entry of the family is wrong.
        """
        family, _, category = name.partition(":")
        if name not in self.datasets and family in self.families and re.fullmatch(r"[A-Za-z0-9_]+", category):
            return _member_of(self.families[family], category)
        return self.datasets.get(name)


def load_catalog() -> dict[str, DatasetSpec]:
    """All data sets that seqbench knows by name, in the order of datasets.yaml.

    Raises:
        SeqbenchError: the file is missing or wrong; the message names the line, the entry and the field.
    """
    return dict(_load(paths.shipped("datasets.yaml")).datasets)


def families() -> list[str]:
    """Names such as amazon-2018, which go with any category: amazon-2018:CATEGORY."""
    return list(_load(paths.shipped("datasets.yaml")).families)


def is_known(name: str) -> bool:
    """Whether a name is one of the catalogue, and not one that the user gave."""
    return _load(paths.shipped("datasets.yaml")).get(name) is not None


def get_spec(name: str, others: Iterable[str] = ()) -> DatasetSpec:
    """The entry called `name`.

    Args:
        others: names outside the catalogue that may be suggested, too.

    Raises:
        UsageError: there is none; the message suggests the nearest name.
    """
    catalog = _load(paths.shipped("datasets.yaml"))
    if (spec := catalog.get(name)) is not None:
        return spec
    if name in catalog.families:
        known = next(known for known in catalog.datasets if known.startswith(f"{name}:"))
        raise UsageError(f"{name} needs a category.", hint=f"For example {known}; see `seqbench list datasets`.")
    raise unknown_name("Data set", name, [*catalog.datasets, *others], "seqbench list datasets")


def own_spec(name: str) -> DatasetSpec:
    """What a file of the user's starts from: nothing is dropped unless it is asked for.

    Raises:
        UsageError: the name is taken, or cannot be that of a folder.
    """
    check_name(name)
    return DatasetSpec(
        name=name,
        title=f"{name}, a file of the user's",
        timestamp_unit="seconds",
        duplicates="none",
        ties="file",
        min_user=1,
        min_item=1,
        splits=SPLITS,
        max_len=50,
        licence="That of the file.",
        citation="None: the file was given with --raw.",
    )


def check_name(name: str) -> None:
    """Whether a data set may be stored under a name of the user's.

    Raises:
        UsageError: the catalogue has it, or it cannot be that of a folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name.endswith("."):
        raise UsageError(f"--name '{name}' must be letters, digits, '-', '_' and '.'.")
    catalog = _load(paths.shipped("datasets.yaml"))
    if name in catalog.datasets or name in catalog.families:
        raise UsageError(f"--name {name} is a data set of the catalogue.", hint="Choose another name.")


@functools.cache
def _load(path: Path) -> Catalog:
    try:
        return parse_catalog(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SeqbenchError(
            f"The catalogue of data sets {path} cannot be read: {error}.",
            hint="Install seqbench again: `pip install --force-reinstall seqbench`.",
        ) from error


def parse_catalog(text: str) -> Catalog:
    """Check the content of a datasets.yaml and turn it into specs.

    Raises:
        SeqbenchError: naming the first line, entry and field that is wrong.
    """
    entries, lines = _read_yaml(text)
    if not isinstance(entries, dict):
        raise SeqbenchError("datasets.yaml must map data set names to entries.")
    datasets: dict[str, DatasetSpec] = {}
    found: dict[str, _Fields] = {}
    for name, entry in entries.items():
        fields = _Fields(str(name), entry, lines)
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(name)):
            # The name becomes a folder: nothing in it may lead out of the one where data sets live.
            fields.wrong("", "its name must be lower-case letters, digits, '-' and '.'")
        if not fields.has("categories"):
            datasets[str(name)] = _spec(fields)
            continue
        found[str(name)] = fields
        for category in fields.copy().section("categories").fields:
            spec = _member_of(fields, category)
            datasets[spec.name] = spec
    for spec in datasets.values():
        if spec.downloads is not None and spec.downloads not in datasets:
            _Fields(spec.name, entries[spec.name], lines).wrong("downloads", f"'{spec.downloads}' is no entry")
    return Catalog(datasets, found)


def _read_yaml(text: str) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """The content, and the line of every value by its path."""
    import yaml

    lines: dict[tuple[Any, ...], int] = {}

    def build(node: Any, path: tuple[Any, ...]) -> Any:
        lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            found: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node)
                if not isinstance(key, str | int | float) or key in found:
                    raise SeqbenchError(
                        f"datasets.yaml, line {key_node.start_mark.line + 1}: '{key}' is there twice, or is no name."
                    )
                found[key] = build(value_node, (*path, key))
                lines[*path, key] = key_node.start_mark.line + 1
            return found
        if isinstance(node, yaml.SequenceNode):
            return [build(child, (*path, index)) for index, child in enumerate(node.value)]
        return loader.construct_object(node)

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        return (None if node is None else build(node, ())), lines
    except yaml.YAMLError as error:
        raise SeqbenchError(f"datasets.yaml is no YAML: {' '.join(str(error).split())}.") from error
    finally:
        loader.dispose()


class _Fields:
    """Takes typed fields out of one mapping and complains, with line and path, about the others."""

    def __init__(
        self,
        entry: str,
        fields: Any,
        lines: dict[tuple[Any, ...], int],
        path: tuple[Any, ...] | None = None,
        category: str | None = None,
    ) -> None:
        self.entry = entry
        self.lines = lines
        self.path = (entry,) if path is None else path
        self.category = category
        if not isinstance(fields, dict):
            self.wrong("", "must be a mapping")
        self.fields = dict(fields)

    def copy(self, category: str | None = None) -> "_Fields":
        """The same fields, none of them taken yet; `category` replaces {category} in every text."""
        return _Fields(self.entry, self.fields, self.lines, self.path, category)

    def wrong(self, field: str, why: str) -> NoReturn:
        path = (*self.path, field) if field else self.path
        line = self.lines.get(path, self.lines.get(self.path, 1))
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[1:])
        raise SeqbenchError(
            f"datasets.yaml, line {line}, entry {self.entry}, field {place[1:] or '(whole entry)'}: {why}.",
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

    def _filled(self, text: str) -> str:
        return text.strip() if self.category is None else text.strip().replace(CATEGORY, self.category)

    def text(self, field: str) -> str:
        return self._filled(cast(str, self._take(field, str, True)))

    def optional_text(self, field: str) -> str | None:
        value = self._take(field, str, False)
        return None if value is None else self._filled(value)

    def texts(self, field: str) -> tuple[str, ...]:
        """One text or a list of them; empty if the field is not there."""
        value = self.fields.pop(field, None)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(text, str) for text in values):
            self.wrong(field, f"must be text or a list of texts, not {value!r}")
        return tuple(self._filled(text) for text in values)

    def count(self, field: str) -> int:
        value = cast(int, self._take(field, int, True))
        if value < 1:
            self.wrong(field, f"must be at least 1, not {value}")
        return value

    def choice(self, field: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        if default is not None and not self.has(field):
            return default
        value = self.text(field)
        if value not in allowed:
            self.wrong(field, f"must be one of {', '.join(allowed)}, not '{value}'")
        return value

    def hexadecimals(self, field: str, digits: int) -> tuple[str, ...]:
        values = self.texts(field)
        if not all(re.fullmatch(f"[0-9a-f]{{{digits}}}", value) for value in values):
            self.wrong(field, f"must be {digits} lower-case hexadecimal digits, or a list of such")
        return values

    def sequence(self, field: str, *, required: bool = True) -> list[Any]:
        return self._take(field, list, required) or []

    def section(self, *steps: Any) -> "_Fields":
        """The mapping at a field, or at a place in a list."""
        value = self._take(steps[0], dict, True) if len(steps) == 1 else self.fields[steps[0]][steps[1]]
        return _Fields(self.entry, value, self.lines, (*self.path, *steps), self.category)

    def has(self, field: str) -> bool:
        return self.fields.get(field) is not None

    def done(self) -> None:
        for field in self.fields:
            self.wrong(field, "is not a field that seqbench knows")


_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "a mapping"}


def _member_of(family: _Fields, category: str) -> DatasetSpec:
    """The data set of one category; what is known of it alone replaces or joins the family's fields."""
    fields = family.copy(category)
    categories = fields.section("categories")
    known = categories.section(category) if categories.has(category) else None
    return _spec(fields, f"{family.entry}:{category}", known)


def _spec(fields: _Fields, name: str | None = None, known: _Fields | None = None) -> DatasetSpec:
    splits = fields.sequence("splits")
    if not splits or any(split not in SPLITS for split in splits):
        fields.wrong("splits", f"must be some of {', '.join(SPLITS)}")
    filters = fields.section("filters")
    listed = fields.sequence("sources", required=False)
    fields.fields["sources"] = listed
    sources = tuple(
        _source(fields.section("sources", index), known if index == 0 else None) for index in range(len(listed))
    )
    del fields.fields["sources"]
    generator = fields.choice("generator", GENERATORS) if fields.has("generator") else None
    if bool(sources) == bool(generator):
        fields.wrong("sources", "either sources or a generator is needed")
    expecting = next((place for place in (known, fields) if place is not None and place.has("expected")), None)
    spec = DatasetSpec(
        name=name or fields.entry,
        title=fields.text("title"),
        timestamp_unit=fields.choice("timestamp_unit", TIMESTAMP_UNITS),
        duplicates=fields.choice("duplicates", DUPLICATES),
        repeats=fields.choice("repeats", REPEATS, "keep"),
        ties=fields.choice("ties", TIES),
        min_user=filters.count("min_user"),
        min_item=filters.count("min_item"),
        rule=filters.choice("rule", RULES, "k-core"),
        splits=tuple(splits),
        max_len=fields.count("max_len"),
        licence=fields.text("licence"),
        citation=fields.text("citation"),
        sources=sources,
        generator=generator,
        homepage=fields.optional_text("homepage"),
        downloads=fields.optional_text("downloads"),
        expected=_expected(expecting.section("expected")) if expecting is not None else None,
    )
    filters.done()
    fields.done()
    if known is not None:
        known.done()
    return spec


def _source(fields: _Fields, known: _Fields | None) -> Source:
    url, pypi, manual = (fields.optional_text(way) for way in ("url", "pypi", "manual"))
    if (url, pypi, manual).count(None) != 2:
        fields.wrong("url", "exactly one of url, pypi and manual is needed")
    filename = fields.text("filename")
    if Path(filename).name != filename or filename.startswith("."):
        fields.wrong("filename", "must be a plain file name")
    bytes_of = known if known is not None else fields  # a family says nothing about the bytes of all its members
    source = Source(
        label=fields.text("label"),
        filename=filename,
        url=url,
        mirrors=fields.texts("mirrors"),
        pypi=pypi,
        manual=manual,
        size=bytes_of.count("size") if bytes_of.has("size") else None,
        md5=bytes_of.hexadecimals("md5", 32),
        sha256=bytes_of.hexadecimals("sha256", 64),
        interactions=_member(fields.section("interactions"), parsers.INTERACTIONS),
        items=_member(fields.section("items"), parsers.TITLES) if fields.has("items") else None,
        raw=_counts(fields.section("raw")) if fields.has("raw") else None,
    )
    fields.done()
    return source


def _member(fields: _Fields, formats: dict[str, str]) -> Member:
    names = fields.texts("member")
    if not names:
        fields.wrong("member", "is missing")
    member = Member(
        path=names[0],
        format=fields.choice("format", tuple(formats)),
        sha256=fields.hexadecimals("sha256", 64),
        more=names[1:],
    )
    fields.done()
    return member


def _expected(fields: _Fields) -> Expected:
    expected = Expected(
        source=fields.text("source"),
        prepared=_counts(fields.section("prepared")) if fields.has("prepared") else None,
        raw=_counts(fields.section("raw")) if fields.has("raw") else None,
    )
    fields.done()
    return expected


def _counts(fields: _Fields) -> Counts:
    names = ("users", "items", "interactions")
    if not any(fields.has(name) for name in names):
        fields.wrong("users", "is missing, and so are items and interactions")
    counts = Counts(*(fields.count(name) if fields.has(name) else None for name in names))
    fields.done()
    return counts
