"""Finding and reading raw files, in archives or on their own.

Nothing is ever unpacked to disk: members are read as streams, and their names are only compared with the
names in datasets.yaml, so an archive cannot choose where anything is written.
"""

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from seqbench.data.catalog import DatasetSpec, Member, Source
from seqbench.errors import SeqbenchError

# Interaction logs shrink 3 to 20 times. What promises more than a hundred times its archive is not data.
MAX_EXPANSION = 100
MAX_EXPANSION_FLOOR = 16 << 20  # bytes that any archive may hold, however small

GZIP_MAGIC = b"\x1f\x8b"
BUFFER = 1 << 20  # bytes

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True)
class RawFile:
    """One raw file: a plain file, a member of an archive, or a member of a tar inside a zip. Any may be gzipped."""

    path: Path
    member: str | None  # "//" between an archive and a member of it
    format: str
    sha256: tuple[str, ...]  # as published, of the content; any of them

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)


@dataclass(frozen=True)
class RawFiles:
    """What one source of a data set consists of."""

    source: Source
    interactions: tuple[RawFile, ...]  # each goes on where the one before ends
    items: RawFile | None

    def __str__(self) -> str:
        return " and ".join(map(str, self.interactions))


class Readable(Protocol):
    """What a stream has to be able to do."""

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:
        """Fill the buffer; returns how many bytes there were, 0 at the end."""


class BoundedReader(io.RawIOBase):
    """Passes bytes on, hashing them, until there are more than `limit`.

    Raises from `readinto`:
        SeqbenchError: the limit is passed, or the bytes below turn out to be damaged.
    """

    def __init__(self, stream: "Readable", limit: int, where: str) -> None:
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
            count = self._stream.readinto(buffer)
        except _DAMAGED as error:
            raise damaged(self._where, error) from error
        self._count += count
        if self._count > self._limit:
            raise _too_large(self._where, self._count, self._limit)
        self._digest.update(memoryview(buffer)[:count])
        return count


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
def opened(*files: RawFile) -> Iterator[tuple[BinaryIO, Callable[[], str]]]:
    """Open raw files as one. Yields a buffered binary stream, and a function for the sha256 of what was read.

    Raises:
        SeqbenchError: one is missing, damaged, or unpacks to an absurd size.
    """
    names = " and ".join(map(str, files))
    limit = max(MAX_EXPANSION_FLOOR, MAX_EXPANSION * sum(file.path.stat().st_size for file in files))
    with ExitStack() as stack:
        reader = BoundedReader(_Joined(files, stack, limit), limit, names)
        yield cast(BinaryIO, io.BufferedReader(reader, BUFFER)), lambda: reader.sha256


class _Joined:
    """Files as one stream, each opened when the one before has ended."""

    def __init__(self, files: Sequence[RawFile], stack: ExitStack, limit: int) -> None:
        self._files = list(files)
        self._stack = stack
        self._limit = limit
        self._current: Readable | None = None
        self._last = b"\n"

    def readinto(self, buffer: "bytearray | memoryview") -> int:
        while self._current is not None or self._files:
            if self._current is None:
                self._current = cast(Readable, _open(self._files.pop(0), self._stack, self._limit))
            if count := self._current.readinto(buffer):
                self._last = bytes(buffer[count - 1 : count])
                return count
            self._current = None
            if self._files and self._last != b"\n":
                buffer[:1] = self._last = b"\n"
                return 1
        return 0


def _open(file: RawFile, stack: ExitStack, limit: int) -> IO[bytes]:
    """A stream of the content, through every layer that is around it."""
    steps = file.member.split("//") if file.member else []
    stream: IO[bytes]
    if steps and _is_zip(file.path):
        archive = stack.enter_context(zipfile.ZipFile(file.path))
        info = archive.getinfo(steps.pop(0))
        if info.file_size > limit:
            raise _too_large(file, info.file_size, limit)
        stream = stack.enter_context(archive.open(info))
    else:
        stream = stack.enter_context(file.path.open("rb"))
    stream = _unzipped(stream, stack, limit, file)
    for step in steps:
        stream = _unzipped(_tar_member(stream, step, stack), stack, limit, file)
    return stream


def _unzipped(stream: IO[bytes], stack: ExitStack, limit: int, file: RawFile) -> IO[bytes]:
    """The stream itself, or its content if it is gzipped."""
    buffered = io.BufferedReader(cast(io.RawIOBase, stream), BUFFER)
    stack.callback(buffered.close)
    if buffered.peek(2)[:2] != GZIP_MAGIC:
        return buffered
    # Bounded here too: a tar is looked through for its member before anything is handed on.
    content = BoundedReader(cast(Readable, stack.enter_context(gzip.GzipFile(fileobj=buffered))), limit, str(file))
    return io.BufferedReader(content, BUFFER)


def _tar_member(stream: IO[bytes], name: str, stack: ExitStack) -> IO[bytes]:
    """A member of a tar that is read from front to back, by its name without folders."""
    archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))  # noqa: SIM115
    for entry in archive:
        if entry.isreg() and entry.name.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]:
            member = archive.extractfile(entry)
            assert member is not None
            return member
    raise tarfile.ReadError(f"it has no member {name}")


def _tar_names(path: Path) -> set[str]:
    file = RawFile(path, None, "tar", ())
    limit = max(MAX_EXPANSION_FLOOR, MAX_EXPANSION * path.stat().st_size)
    with ExitStack() as stack:
        stream = _unzipped(stack.enter_context(path.open("rb")), stack, limit, file)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            return {entry.name for entry in archive if entry.isreg()}


def locate(spec: DatasetSpec, path: Path, source: Source | None = None) -> RawFiles:
    """Find the raw files of `spec` in an archive, a folder, or a single file.

    Args:
        spec: the data set.
        path: what was downloaded, or what the user gave with --raw.
        source: the source that `path` was fetched from; all sources are tried without it.

    Raises:
        SeqbenchError: nothing there has a name that the data set's sources use, one of several files is missing, or
            the archive is damaged.
    """
    sources = (source,) if source else spec.sources
    if not path.exists():
        raise SeqbenchError(f"{path} does not exist.", hint=f"Give --raw one of: {_wanted(spec)}.")
    try:
        if path.is_dir():
            found = _in_folder(sources, path)
        elif not path.is_file():
            raise _no_file(path)
        elif _is_archive(path):
            found = _in_archive(sources, path)
        else:
            found = _single(sources, path)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise SeqbenchError(
                f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions."
            ) from error
        raise damaged(path, error) from error
    if found is None:
        raise SeqbenchError(
            f"{path} holds no raw file of {spec.name} under a name that seqbench knows.",
            hint=f"Give --raw one of: {_wanted(spec)}; or a folder that holds one.",
        )
    return found


def user_file(path: Path) -> RawFile:
    """Return a user's own file, in a format that its name tells.

    Raises:
        SeqbenchError: it is a folder, a device or a pipe.
    """
    if not path.is_file():
        raise _no_file(path)
    return RawFile(path, None, "", ())


def _no_file(path: Path) -> SeqbenchError:
    what = "a folder" if path.is_dir() else "no regular file" if path.exists() else "not there"
    return SeqbenchError(f"{path} is {what}.", hint="Give --raw a file; what comes through a pipe must be saved first.")


def _wanted(spec: DatasetSpec) -> str:
    names = [name for source in spec.sources for name in (source.wanted, " and ".join(source.interactions.basenames))]
    return ", ".join(dict.fromkeys(names))


def _is_zip(path: Path) -> bool:
    return zipfile.is_zipfile(path)


def _is_archive(path: Path) -> bool:
    if _is_zip(path):
        return True
    with path.open("rb") as stream:
        starts_like_zip = stream.read(2) == b"PK"
    if starts_like_zip or path.suffix in (".zip", ".whl"):
        raise damaged(path, "its table of contents, at the end of a zip archive, is missing")
    return path.name.endswith((".tar", ".tar.gz", ".tgz"))


def _files(member: Member, find: Callable[[str], tuple[Path, str | None] | None]) -> tuple[RawFile, ...] | None:
    """All files of a member, by a function from a name in datasets.yaml to where that is; None if none is there.

    Raises:
        SeqbenchError: some are there, but not all.
    """
    found, missing = [], []
    for name, basename in zip(member.member, member.basenames, strict=True):
        if (place := find(name)) is None:
            missing.append(basename)
        else:
            found.append(RawFile(*place, member.format, member.sha256))
    if found and missing:
        raise SeqbenchError(
            f"{found[0]} is not all: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            hint=f"Put {' and '.join(member.basenames)} into one folder, and give that to --raw.",
        )
    return tuple(found) or None


def _first(files: tuple[RawFile, ...] | None) -> RawFile | None:
    return files[0] if files else None


def _in_folder(sources: tuple[Source, ...], folder: Path) -> RawFiles | None:
    def find(name: str) -> tuple[Path, str | None] | None:
        for candidate in (name, name.rsplit("/", 1)[-1]):
            for spelled in (candidate, f"{candidate}.gz"):
                if (folder / spelled).is_file():
                    return folder / spelled, None
        return None

    for source in sources:
        if interactions := _files(source.interactions, find):
            return RawFiles(source, interactions, _first(_files(source.items, find)) if source.items else None)
    for source in sources:
        if (folder / source.filename).is_file() and _is_archive(folder / source.filename):
            return _in_archive((source,), folder / source.filename)
    return None


def _in_archive(sources: tuple[Source, ...], path: Path) -> RawFiles | None:
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    else:
        names = _tar_names(path)

    def find(name: str) -> tuple[Path, str | None] | None:
        outer, _, inner = name.partition("//")
        if not _is_zip(path):  # a tar, which may have been taken out of the zip that it is published in
            wanted = (inner or outer).rsplit("/", 1)[-1]
            there = any(entry.rsplit("/", 1)[-1] == wanted for entry in names)
            return (path, wanted) if there else None
        if outer in names:
            return path, name
        basename = name.rsplit("/", 1)[-1]
        return (path, basename) if basename in names else None

    for source in sources:
        if interactions := _files(source.interactions, find):
            return RawFiles(source, interactions, _first(_files(source.items, find)) if source.items else None)
    return None


def _single(sources: tuple[Source, ...], path: Path) -> RawFiles | None:
    """A file on its own: told apart by its name, or else by its ending; titles may lie beside it."""
    name = path.name.removesuffix(".gz")
    same_name = [source for source in sources if name in source.interactions.basenames]
    same_ending = [source for source in sources if Path(name).suffix == Path(source.interactions.basenames[0]).suffix]
    for source in same_name + same_ending:
        member = source.interactions
        if len(member.member) > 1 and source in same_name:  # the other files must be there too
            return _in_folder((source,), path.parent)
        items = None
        if source.items:
            for spelled in (source.items.basenames[0], f"{source.items.basenames[0]}.gz"):
                if (path.parent / spelled).is_file():
                    items = RawFile(path.parent / spelled, None, source.items.format, source.items.sha256)
        return RawFiles(source, (RawFile(path, None, member.format, member.sha256),), items)
    return None
