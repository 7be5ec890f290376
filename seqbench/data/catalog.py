"""datasets.yaml → `DatasetSpec`. Importing this module is cheap; completion and `--help` use it."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from seqbench import paths
from seqbench.data.filters import Filters
from seqbench.data.parsers import FORMATS, TITLES
from seqbench.data.schema import Check, FieldError, at_least, build, matching
from seqbench.errors import SeqbenchError, UsageError, unknown_name

Split = Literal["leave-one-out", "temporal"]
SPLITS: tuple[str, ...] = get_args(Split)
GIVEN = "given"  # the split that the authors of a data set made

# No folder can be called so on Windows, with any ending.
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}

CATEGORY = "{category}"  # in an entry that stands for many data sets, such as amazon-2018:All_Beauty

Count = Annotated[int, at_least(1)]
Md5 = Annotated[str, matching("[0-9a-f]{32}", "32 lower-case hexadecimal digits")]
Sha256 = Annotated[str, matching("[0-9a-f]{64}", "64 lower-case hexadecimal digits")]


@dataclass(frozen=True)
class Member:
    """One file of a source: a member of an archive, or a file that a user may hold on its own."""

    # Inside the archive, "/" between folders, "//" between an archive and a member of it. Where there are several,
    # each goes on where the one before ends.
    member: Annotated[tuple[str, ...], Check(bool, "must name a file")]
    format: str  # a name in seqbench.data.parsers
    sha256: tuple[Sha256, ...] = ()  # any of them will do: hosts re-pack files

    @property
    def basenames(self) -> tuple[str, ...]:
        """Return the names of its files without their folders."""
        return tuple(path.rsplit("/", 1)[-1] for path in self.member)


@dataclass(frozen=True)
class Counts:
    """The size of a data set. None: no exact figure is published."""

    users: Count | None = None
    items: Count | None = None
    interactions: Count | None = None

    def __post_init__(self) -> None:
        if self.users is self.items is self.interactions is None:
            raise FieldError("users", "is missing, and so are items and interactions")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place to get a data set from: `url`, `pypi`, or by hand."""

    label: str
    # As stored below downloads/.
    filename: Annotated[str, matching(r"[^./\\][^/\\]*", "a plain file name")]
    interactions: Member
    items: Member | None = None
    url: str | None = None
    mirrors: tuple[str, ...] = ()  # the same bytes elsewhere
    pypi: str | None = None  # a pinned requirement, "recbole==1.2.1"
    manual: str | None = None  # what a person has to do, where no program may fetch it
    size: Count | None = None  # bytes
    md5: tuple[Md5, ...] = ()
    sha256: tuple[Sha256, ...] = ()
    raw: Counts | None = None  # what it holds, where that is not what `Expected.raw` says

    def __post_init__(self) -> None:
        if (self.url, self.pypi, self.manual).count(None) != 2:
            raise FieldError("url", "is one of url, pypi and manual, of which exactly one is needed")
        if self.interactions.format not in FORMATS:
            raise FieldError(
                "interactions.format", f"must be one of {FORMATS.words()}, not '{self.interactions.format}'"
            )
        if self.items is not None and self.items.format not in TITLES:
            raise FieldError("items.format", f"must be one of {TITLES.words()}, not '{self.items.format}'")

    @property
    def location(self) -> str:
        """Return the URL, the requirement, or the errand, in the words a user could type."""
        return self.url or (f"pip download {self.pypi}" if self.pypi else self.manual or "")

    @property
    def wanted(self) -> str:
        """Return what a person has to provide: an archive, or files that lie beside each other."""
        names = self.interactions.basenames
        return " and ".join(names) if self.filename in names else self.filename

    @property
    def pinned(self) -> bool:
        """Return whether a checksum says which bytes are right."""
        return bool(self.sha256 or self.md5)


@dataclass(frozen=True)
class Expected:
    """Published counts to compare with."""

    source: str
    prepared: Counts | None = None  # with the filters of the entry
    raw: Counts | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One entry of datasets.yaml."""

    name: str
    title: str
    timestamp_unit: Literal["seconds", "milliseconds", "rows"]  # rows: the source has no time, only an order
    filters: Filters
    splits: Annotated[tuple[Split, ...], Check(bool, "must name a split")]  # the first is the default
    max_len: Count  # most recent items that a model sees by default
    licence: str
    citation: str
    sources: tuple[Source, ...] = ()  # in the order in which they are tried
    generator: Literal["synthetic"] | None = None  # generated here instead of fetched
    homepage: str | None = None
    expected: Expected | None = None
    downloads: str | None = None  # the data set with whose files this one shares a folder; None: it has its own

    @property
    def manual(self) -> bool:
        """Return whether a person has to fetch it."""
        return bool(self.sources) and all(source.manual for source in self.sources)

    @property
    def rated(self) -> bool:
        """Return whether its rows have ratings."""
        return self.generator is None and all(FORMATS[source.interactions.format].rated for source in self.sources)


@dataclass(frozen=True)
class Category:
    """What is known of one data set of a family alone."""

    size: Count | None = None
    md5: tuple[Md5, ...] = ()
    sha256: tuple[Sha256, ...] = ()
    expected: Expected | None = None


@dataclass(frozen=True)
class Family:
    """An entry that stands for one data set per category."""

    name: str
    entry: dict[str, Any]  # as it is written, "{category}" in its texts
    known: dict[str, Category | None]

    def member(self, category: str) -> DatasetSpec:
        """Return the data set of a category; what is known of it alone replaces or joins the family's fields.

        Raises:
            SeqbenchError: the entry is wrong.
        """
        known = self.known.get(category) or Category()
        entry = _filled(self.entry, category)
        first, *others = entry["sources"]
        bytes_of = {"size": known.size, "md5": known.md5, "sha256": known.sha256}
        entry["sources"] = [{**first, **{name: value for name, value in bytes_of.items() if value}}, *others]
        if known.expected is not None:
            entry["expected"] = known.expected
        return _spec(f"{self.name}:{category}", entry)


@dataclass(frozen=True)
class Catalog:
    """Everything in datasets.yaml."""

    datasets: dict[str, DatasetSpec]  # by name, with the known categories of families
    families: dict[str, Family]  # entries that need a category

    def get(self, name: str) -> DatasetSpec | None:
        """Return the entry called `name`, made for it if it is any category of a family.

        Raises:
            SeqbenchError: the entry of the family is wrong.
        """
        family, _, category = name.partition(":")
        if name not in self.datasets and family in self.families and re.fullmatch(r"[A-Za-z0-9_]+", category):
            return self.families[family].member(category)
        return self.datasets.get(name)


def load_catalog() -> dict[str, DatasetSpec]:
    """Return all data sets that seqbench knows by name, in the order of datasets.yaml.

    Raises:
        SeqbenchError: the file is missing or wrong; the message names the entry and the field.
    """
    return dict(_shipped().datasets)


def families() -> list[str]:
    """Return names such as amazon-2018, which go with any category: amazon-2018:CATEGORY."""
    return list(_shipped().families)


def is_known(name: str) -> bool:
    """Return whether a name is one of the catalogue, and not one that the user gave."""
    return _shipped().get(name) is not None


def get_spec(name: str, others: Iterable[str] = ()) -> DatasetSpec:
    """Return the entry called `name`.

    Args:
        others: names outside the catalogue that may be suggested, too.

    Raises:
        UsageError: there is none; the message suggests the nearest name.
    """
    catalog = _shipped()
    if (spec := catalog.get(name)) is not None:
        return spec
    if name in catalog.families:
        known = next(known for known in catalog.datasets if known.startswith(f"{name}:"))
        raise UsageError(f"{name} needs a category.", hint=f"For example {known}; see `seqbench list datasets`.")
    raise unknown_name("Data set", name, [*catalog.datasets, *others], "seqbench list datasets")


def user_file_spec(name: str, file: str) -> DatasetSpec:
    """Return what the user's own file starts from: nothing is dropped unless it is asked for.

    Args:
        name: of the data set.
        file: the name of the file.

    Raises:
        UsageError: the name is taken, or cannot be that of a folder.
    """
    check_name(name)
    return DatasetSpec(
        name=name,
        title=file,
        timestamp_unit="seconds",
        filters=Filters(),
        splits=("leave-one-out", "temporal"),
        max_len=50,
        licence="That of the file.",
        citation="None: the file was given with --raw.",
    )


def check_name(name: str) -> None:
    """Check that a data set may be stored under a name that the user chose.

    Raises:
        UsageError: the catalogue has it, or it cannot be that of a folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name.endswith("."):
        raise UsageError(f"--name '{name}' must be letters, digits, '-', '_' and '.'.")
    if name.partition(".")[0].upper() in RESERVED:
        raise UsageError(f"--name {name} is the name of a device on Windows.", hint="Choose another name.")
    catalog = _shipped()
    if name in catalog.datasets or name in catalog.families:
        raise UsageError(f"--name {name} is a data set of the catalogue.", hint="Choose another name.")


def _shipped() -> Catalog:
    return _load(paths.shipped("datasets.yaml"))


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
        SeqbenchError: a field is wrong; the message begins with its path, as in "ml-100k.filters.rule".
    """
    try:
        return _catalog(_read_yaml(text))
    except SeqbenchError as error:
        raise SeqbenchError(f"datasets.yaml: {error.message}", hint="Compare it with the entry ml-100k.") from error


def _catalog(entries: object) -> Catalog:
    if not isinstance(entries, dict):
        raise SeqbenchError("it must map data set names to entries.")
    datasets: dict[str, DatasetSpec] = {}
    families: dict[str, Family] = {}
    for name, entry in entries.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(name)):
            # The name becomes a folder: nothing in it may lead out of the one where data sets live.
            raise SeqbenchError(f"the name '{name}' must be lower-case letters, digits, '-' and '.'.")
        if not isinstance(entry, dict):
            raise SeqbenchError(f"{name} must be a mapping.")
        if "categories" in entry:
            known: dict[str, Category | None] = build(
                dict[str, Category | None], entry["categories"], f"{name}.categories"
            )
            families[name] = Family(name, {key: value for key, value in entry.items() if key != "categories"}, known)
            for category in known:
                spec = families[name].member(category)
                datasets[spec.name] = spec
        else:
            datasets[name] = _spec(name, entry)
    for spec in datasets.values():
        if spec.downloads is not None and spec.downloads not in datasets:
            raise SeqbenchError(f"{spec.name}.downloads '{spec.downloads}' is no entry.")
    return Catalog(datasets, families)


def _spec(name: str, entry: dict[str, Any]) -> DatasetSpec:
    spec = build(DatasetSpec, {**entry, "name": name}, name)
    if bool(spec.sources) == bool(spec.generator):
        raise SeqbenchError(f"{name}.sources: either sources or a generator is needed.")
    return spec


def _filled(value: Any, category: str) -> Any:
    """Put the category into every text."""
    if isinstance(value, dict):
        return {name: _filled(each, category) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, category) for each in value]
    return value.replace(CATEGORY, category) if isinstance(value, str) else value


def _read_yaml(text: str) -> object:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _check_keys(node)
        return loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise SeqbenchError(f"it is no YAML: {' '.join(str(error).split())}.") from error
    finally:
        loader.dispose()


def _check_keys(node: Any) -> None:
    """Refuse mappings that have a key twice, of which YAML keeps the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                where = f"line {key.start_mark.line + 1}"
                raise SeqbenchError(f"{where}: '{getattr(key, 'value', '?')}' is there twice, or is no name.")
            seen.add(key.value)
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _check_keys(child)
