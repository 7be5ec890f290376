"""From a request to raw files on this machine: what the user gave, or what is downloaded."""

from dataclasses import dataclass
from pathlib import Path

from seqbench.data import archives, download
from seqbench.data.archives import RawFile, RawFiles
from seqbench.data.resolve import Request


@dataclass(frozen=True)
class Obtained:
    """Raw files, and where they are from."""

    files: RawFiles | RawFile  # those of a source of the catalogue, or the user's own
    label: str  # for people
    fetched: bool  # downloaded, and not given by the user


def obtain(request: Request, home: Path, *, offline: bool) -> Obtained:
    """Get hold of the raw files of a data set that is not generated.

    Raises:
        SeqbenchError: no source works, or what the user gave is missing, damaged or of another data set.
        StorageError: what is downloaded cannot be written.
    """
    if request.columns is not None:
        assert request.raw is not None
        return Obtained(archives.user_file(request.raw), str(request.raw), fetched=False)
    if request.raw is not None:
        return Obtained(archives.locate(request.spec, request.raw), str(request.raw), fetched=False)
    source, path = download.fetch(request.spec, home, offline=offline)
    files = archives.locate(request.spec, path, source)
    return Obtained(files, f"{source.label}, {source.location}", fetched=True)
