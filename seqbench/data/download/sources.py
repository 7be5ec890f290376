"""Fetch data sets from the first of their sources that is available."""

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seqbench import console, paths
from seqbench.data.catalog import DatasetSpec, Source, load_catalog
from seqbench.data.download.errors import MissingError, SourceError, without_secrets
from seqbench.data.download.http import fetch_urls
from seqbench.data.download.part import Part
from seqbench.data.download.pip import fetch_wheel
from seqbench.data.download.progress import Bars
from seqbench.data.download.verify import is_verified
from seqbench.errors import SeqbenchError, storage_error
from seqbench.files import replacing
from seqbench.locking import locked

AT_ONCE = 4  # files


def fetch_all(specs: Sequence[DatasetSpec], home: Path, *, offline: bool = False) -> dict[str, SeqbenchError]:
    """Fetch several data sets, some at once, into `paths.downloads(home)`.

    Returns:
        name → what went wrong, of those that could not be fetched.
    """
    failed: dict[str, SeqbenchError] = {}
    with Bars() as bars, ThreadPoolExecutor(AT_ONCE) as pool:
        running = {spec.name: pool.submit(fetch, spec, home, offline=offline, bars=bars) for spec in specs}
        try:
            for name, future in running.items():
                try:
                    future.result()
                except SeqbenchError as error:
                    failed[name] = error
        except BaseException:
            bars.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def fetch(spec: DatasetSpec, home: Path, *, offline: bool = False, bars: Bars | None = None) -> tuple[Source, Path]:
    """Return the first source of `spec` that is available, and the verified file in `paths.downloads(home)`.

    A verified file of any source that is already there is used without touching the network.

    Raises:
        SeqbenchError: no source works; the message lists each with its URL and its reason.
        StorageError: the file cannot be written.
    """
    folder = paths.downloads(home) / paths.folder_name(spec.downloads or spec.name)
    for source in spec.sources:
        if is_verified(folder / source.filename, source):
            return source, folder / source.filename
    files = " or ".join(dict.fromkeys(source.wanted for source in spec.sources))
    by_hand = f"put {files} into {folder} and repeat the command, or run `seqbench prepare {spec.name} --raw PATH`."
    if spec.manual:
        words = "\n".join(f"  {source.label}: {source.manual}" for source in spec.sources)
        raise SeqbenchError(
            f"{spec.name} has to be fetched by hand ({spec.homepage}).\n{words}", hint=f"Then {by_hand}"
        )
    reasons = []
    missing = True
    fetched = [source for source in spec.sources if not source.manual]
    for position, source in enumerate(fetched, start=1):
        try:
            if offline:
                raise SourceError(f"not fetched, because of --offline: there is no {folder / source.filename}")
            return source, fetch_source(source, folder, bars)
        except SourceError as error:
            missing &= isinstance(error, MissingError)
            reasons.append(f"  {position}. {source.label}, {without_secrets(source.location)}\n     {error}")
            if position < len(fetched) and not offline:
                console.note(f"{source.label}: {error}. Trying the next source.")
    family, _, category = spec.name.partition(":")
    if missing and category:
        near = difflib.get_close_matches(spec.name, load_catalog(), n=1, cutoff=0.5)
        raise SeqbenchError(
            f"{family} has no category '{category}': no server has such a file.\n" + "\n".join(reasons),
            hint=f"Did you mean {near[0]}? " * bool(near)
            + f"The publisher's categories are listed at {spec.homepage}.",
        )
    way = (
        "Repeat the command without --offline" if offline else "Check the network and the proxy settings (HTTPS_PROXY)"
    )
    raise SeqbenchError(
        f"{spec.name} could not be fetched from any of its sources.\n" + "\n".join(reasons),
        hint=f"{way}; or fetch the file by other means, {by_hand}",
    )


def fetch_source(source: Source, folder: Path, bars: Bars | None = None) -> Path:
    """Fetch `source` into `folder` and verify it, unless it is there already.

    Raises:
        SourceError: it cannot be fetched, or its size or checksum differs.
        StorageError: the file cannot be written.
    """
    target = folder / source.filename
    with locked(folder / f".{source.filename}.lock", f"it is fetching {source.filename}"):
        if target.exists():
            if is_verified(target, source):
                return target
            console.note(f"{target} is damaged and is fetched again.")
        for left in folder.glob(f".{source.filename}.*.tmp"):  # of a process that was killed
            left.unlink(missing_ok=True)
        if source.url is None:
            with replacing(target) as temporary:
                fetch_wheel(source, temporary)
            return target
        part = Part(target)
        try:
            with bars or Bars() as shown:
                fetch_urls(source, part, shown)
            part.finish(source)
        except OSError as error:
            raise storage_error(error, target) from error
    return target
