"""Sizes and checksums of what was fetched."""

import functools
import hashlib
from pathlib import Path

from seqbench.data.catalog import Source
from seqbench.data.download.errors import SourceError, TransientError


def is_verified(path: Path, source: Source) -> bool:
    """Return whether a file has the size and checksums of `source`, or those that it had when it was fetched."""
    if not path.is_file():
        return False
    try:
        verify(path, source)
        kept = remembered(path)
        return source.pinned or not kept.exists() or kept.read_text("ascii") == digest_of(path, "sha256")
    except (SourceError, OSError, ValueError):
        return False


def verify(path: Path, source: Source) -> None:
    """Compare a file with the published size and checksums, as far as `source` has them.

    Raises:
        TransientError: the file is too short, as after a cut connection.
        SourceError: it is another file; both values are in the message.
    """
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        kind = TransientError if size < source.size else SourceError
        raise kind(f"the file has {size:,} bytes instead of {source.size:,}")
    if size == 0:
        raise SourceError("the file is empty")
    algorithm, accepted = ("sha256", source.sha256) if source.sha256 else ("md5", source.md5)
    if accepted and (digest := digest_of(path, algorithm)) not in accepted:
        raise SourceError(f"its {algorithm} is {digest} instead of {' or '.join(accepted)}")


def digest_of(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        # md5 protects from nothing, but some publishers state nothing else.
        return hashlib.file_digest(stream, functools.partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


def remembered(path: Path) -> Path:
    """Return where the sha256 of a file is kept whose publisher states none."""
    return path.with_name(f".{path.name}.sha256")


def forget(path: Path) -> bool:
    """Delete a file that turned out to be damaged, if it was fetched here: what a person put there stays.

    Returns:
        Whether it was fetched here.
    """
    ours = remembered(path).exists()
    if ours:
        path.unlink(missing_ok=True)
        remembered(path).unlink()
    return ours
