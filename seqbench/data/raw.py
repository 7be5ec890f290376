"""Finding and reading raw files, in an archive or on their own.

Nothing is ever unpacked to disk: members are read as streams, and their names are only compared with the
names in datasets.yaml, so an archive cannot choose where anything is written.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from seqbench.data.catalog import DatasetSpec, Member, Source
from seqbench.errors import SeqbenchError

# Interaction logs shrink 3 to 20 times. What promises more than a hundred times its archive is not data.
MAX_EXPANSION = 100
MAX_EXPANSION_FLOOR = 16 << 20  # bytes that any archive may hold, however small

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class RawFile:
    """One raw file: a plain file, or a member of an archive."""

    path: Path
    member: str | None
    format: str
    sha256: str | None  # as published

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)


@dataclass(frozen=True)
class RawFiles:
    """What one source of a data set consists of."""

    source: Source
    interactions: RawFile
    items: RawFile | None


class BoundedReader(io.RawIOBase):
    """Passes bytes on, hashing them, until there are more than `limit`.

    Raises from `readinto`:
        SeqbenchError: the limit is passed, or the bytes below turn out to be damaged.
    """

    def __init__(self, stream: IO[bytes], limit: int | None, where: str) -> None:
        super().__init__()
        self._stream = stream
        self._limit = limit
        self._where = where
        self._digest = hashlib.sha256()
        self._count = 0

    @property
    def sha256(self) -> str:
        """Of the bytes read so far."""
        return self._digest.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except _DAMAGED as error:
            raise damaged(self._where, error) from error
        self._count += len(data)
        if self._limit is not None and self._count > self._limit:
            raise _too_large(self._where, self._count, self._limit)
        self._digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def sha256_of(path: Path) -> str:
    """Of the file as it lies on disk, archive or not."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def damaged(where: object, why: object) -> SeqbenchError:
    """The error for a raw file that cannot be read."""
    return SeqbenchError(
        f"{where} is truncated or damaged ({why}).",
        hint="Fetch the file again; without --raw, seqbench downloads and verifies it itself.",
    )


def _too_large(where: object, size: int, limit: int) -> SeqbenchError:
    return SeqbenchError(
        f"{where} unpacks to {size:,} bytes or more, past the limit of {limit:,} for an archive of its size.",
        hint="This is no data set file. Fetch it again from the publisher.",
    )


@contextmanager
def opened(file: RawFile) -> Iterator[tuple[BinaryIO, Callable[[], str]]]:
    """Open a raw file. Yields a buffered binary stream, and a function for the sha256 of what was read.

    Raises:
        SeqbenchError: it is missing, damaged, or unpacks to an absurd size.
    """
    try:
        with _archive_or_file(file) as (stream, limit):
            reader = BoundedReader(stream, limit, str(file))
            yield cast(BinaryIO, io.BufferedReader(reader, 1 << 20)), lambda: reader.sha256
    except _DAMAGED as error:
        raise damaged(file, error) from error


@contextmanager
def _archive_or_file(file: RawFile) -> Iterator[tuple[IO[bytes], int | None]]:
    if file.member is None:
        with file.path.open("rb") as stream:
            yield stream, None
        return
    with zipfile.ZipFile(file.path) as archive:
        limit = max(MAX_EXPANSION_FLOOR, MAX_EXPANSION * file.path.stat().st_size)
        info = archive.getinfo(file.member)
        if info.file_size > limit:
            raise _too_large(file, info.file_size, limit)
        with archive.open(info) as member:
            yield member, limit


def locate(spec: DatasetSpec, path: Path, source: Source | None = None) -> RawFiles:
    """Find the raw files of `spec` in an archive, a folder, or a single file.

    Args:
        spec: the data set.
        path: what was downloaded, or what the user gave with --raw.
        source: the source that `path` was fetched from; all sources are tried without it.

    Raises:
        SeqbenchError: nothing there has a name that the data set's sources use, or the archive is damaged.
    """
    sources = (source,) if source else spec.sources
    if not path.exists():
        raise SeqbenchError(f"{path} does not exist.", hint=f"Give --raw one of: {_wanted(spec)}.")
    try:
        if path.is_dir():
            found = _in_folder(sources, path)
        elif _is_archive(path):
            found = _in_archive(sources, path)
        else:
            found = _single(sources, path)
    except OSError as error:
        raise SeqbenchError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions."
        ) from error
    if found is None:
        raise SeqbenchError(
            f"{path} holds no raw file of {spec.name} under a name that seqbench knows.",
            hint=f"Give --raw one of: {_wanted(spec)}; or a folder that holds one.",
        )
    return found


def _wanted(spec: DatasetSpec) -> str:
    names = [name for source in spec.sources for name in (source.filename, source.interactions.basename)]
    return ", ".join(names)


def _is_archive(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        return True
    with path.open("rb") as stream:
        starts_like_zip = stream.read(2) == b"PK"
    if starts_like_zip or path.suffix in (".zip", ".whl"):
        raise damaged(path, "its table of contents, at the end of a zip archive, is missing")
    return False


def _in_folder(sources: tuple[Source, ...], folder: Path) -> RawFiles | None:
    def file(member: Member) -> RawFile | None:
        for name in (member.path, member.basename):
            if (folder / name).is_file():
                return RawFile(folder / name, None, member.format, member.sha256)
        return None

    for source in sources:
        if interactions := file(source.interactions):
            return RawFiles(source, interactions, file(source.items) if source.items else None)
    for source in sources:
        if (folder / source.filename).is_file() and _is_archive(folder / source.filename):
            return _in_archive((source,), folder / source.filename)
    return None


def _in_archive(sources: tuple[Source, ...], path: Path) -> RawFiles | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except _DAMAGED as error:
        raise damaged(path, error) from error

    def file(member: Member) -> RawFile | None:
        for name in (member.path, member.basename):
            if name in names:
                return RawFile(path, name, member.format, member.sha256)
        return None

    for source in sources:
        if interactions := file(source.interactions):
            return RawFiles(source, interactions, file(source.items) if source.items else None)
    return None


def _single(sources: tuple[Source, ...], path: Path) -> RawFiles | None:
    """A file on its own: told apart by its name, or else by its ending; titles may lie beside it."""
    same_name = [source for source in sources if path.name == source.interactions.basename]
    same_ending = [source for source in sources if path.suffix == Path(source.interactions.basename).suffix]
    for source in same_name + same_ending:
        member = source.interactions
        items = None
        if source.items and (path.parent / source.items.basename).is_file():
            beside = path.parent / source.items.basename
            items = RawFile(beside, None, source.items.format, source.items.sha256)
        return RawFiles(source, RawFile(path, None, member.format, member.sha256), items)
    return None
