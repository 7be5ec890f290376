"""Fetch one source of a data set, verified, to the downloads folder."""

import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import tenacity
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from seqbench import __version__, console, paths
from seqbench.data.catalog import DatasetSpec, Source
from seqbench.errors import SeqbenchError
from seqbench.files import replacing
from seqbench.locking import locked

ATTEMPTS = 3
RETRY_WAIT: tenacity.wait.wait_base = tenacity.wait_exponential(multiplier=0.5, max=8)  # 0.5 s, 1 s, …
TIMEOUT = httpx.Timeout(30, connect=10)  # seconds; the first is between two pieces of the body
PIP_TIMEOUT = 600  # seconds
BLOCK = 1 << 20  # bytes


class SourceError(Exception):
    """A source cannot be used; the message says why, in words that end an error line."""


class TransientError(SourceError):
    """The same, but another attempt may succeed."""


def fetch(spec: DatasetSpec, home: Path) -> tuple[Source, Path]:
    """The first source of `spec` that can be had, and the verified file in `paths.downloads(home)`.

    A verified file of any source that is already there is used without touching the network.

    Raises:
        SeqbenchError: no source works; the message lists each with its URL and its reason.
        StorageError: the file cannot be written.
    """
    folder = paths.downloads(home) / spec.name
    for source in spec.sources:
        if is_verified(folder / source.filename, source):
            return source, folder / source.filename
    reasons = []
    for position, source in enumerate(spec.sources, start=1):
        try:
            return source, fetch_source(source, folder)
        except SourceError as error:
            reasons.append(f"  {position}. {source.label}, {source.location}\n     {error}")
            if position < len(spec.sources):
                console.note(f"{source.label}: {error}. Trying the next source.")
    files = " or ".join(source.filename for source in spec.sources)
    raise SeqbenchError(
        f"{spec.name} could not be fetched from any of its sources.\n" + "\n".join(reasons),
        hint="Check the network and the proxy settings (HTTPS_PROXY), or fetch "
        f"{files} by other means and run `seqbench prepare {spec.name} --raw PATH`.",
    )


def fetch_source(source: Source, folder: Path) -> Path:
    """Fetch `source` into `folder` and verify it, unless it is there already.

    Raises:
        SourceError: it cannot be had, or its size or checksum differs.
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
        with replacing(target) as temporary:
            if source.url is not None:
                _fetch_url(source, temporary)
            else:
                _fetch_wheel(source, temporary)
    return target


def is_verified(path: Path, source: Source) -> bool:
    """Whether `path` exists and has the size and checksums of `source`."""
    if not path.is_file():
        return False
    try:
        verify(path, source)
    except (SourceError, OSError):
        return False
    return True


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
    for algorithm, expected in (("sha256", source.sha256), ("md5", source.md5)):
        if expected is not None:
            with path.open("rb") as stream:
                # md5 protects from nothing, but some publishers state nothing else.
                digest = hashlib.file_digest(stream, functools.partial(hashlib.new, algorithm, usedforsecurity=False))
            if digest.hexdigest() != expected:
                raise SourceError(f"its {algorithm} is {digest.hexdigest()} instead of {expected}")


def _fetch_url(source: Source, path: Path) -> None:
    """Stream the URL to `path`, with retries for what may pass."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=RETRY_WAIT,
        retry=tenacity.retry_if_exception_type(TransientError),
        reraise=True,
    )
    try:
        retrying(_stream, source, path)
    except TransientError as error:
        raise SourceError(f"{error} ({ATTEMPTS} attempts)") from error


def _stream(source: Source, path: Path) -> None:
    assert source.url is not None
    # Raw bytes are what the checksum is of, so no transfer compression.
    headers = {"User-Agent": f"seqbench/{__version__}", "Accept-Encoding": "identity"}
    try:
        client = httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=headers)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        raise SourceError(f"the proxy or certificate settings cannot be used ({error})") from error
    try:
        with client, client.stream("GET", source.url) as response:
            if response.status_code != httpx.codes.OK:
                passing = response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error
                words = f"the server answered {response.status_code} {response.reason_phrase}"
                raise (TransientError if passing else SourceError)(words.rstrip())
            total = source.size or int(response.headers.get("Content-Length", 0)) or None
            with path.open("wb") as file, _progress(source, total) as advance:
                count = 0
                for block in response.iter_bytes(BLOCK):
                    count += len(block)
                    if source.size is not None and count > source.size:
                        raise SourceError(f"the server sent more than the {source.size:,} bytes of the file")
                    file.write(block)
                    advance(len(block))
    except httpx.TimeoutException as error:
        raise TransientError("the connection timed out") from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise SourceError(str(error)) from error
    except httpx.HTTPError as error:
        raise TransientError(f"the connection failed ({error or type(error).__name__})") from error
    verify(path, source)


@contextmanager
def _progress(source: Source, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, one line elsewhere, nothing when quiet."""
    if console.is_quiet() or not console.err.is_terminal:
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        console.note(f"Fetching {source.url}{size}")
        yield lambda count: None
        return
    bar = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*bar, console=console.err, transient=True) as progress:
        task = progress.add_task(source.filename, total=total)
        yield lambda count: progress.advance(task, count)


def _fetch_wheel(source: Source, path: Path) -> None:
    """Let the user's own pip fetch the wheel, so that their index, proxy and certificates apply."""
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"pip is not installed for {sys.executable}; `{sys.executable} -m ensurepip` adds it, or "
            "`uv pip install pip` in an environment made by uv"
        )
    console.note(f"Fetching {source.pypi} with pip")
    with tempfile.TemporaryDirectory(prefix="seqbench-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "-d", folder]
        try:
            # Not in the current folder: a pip.py that lies there would be run.
            done = subprocess.run(
                [*command, str(source.pypi)], cwd=folder, capture_output=True, text=True, timeout=PIP_TIMEOUT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceError(f"pip did not finish ({error})") from error
        if done.returncode != 0:
            raise SourceError(f"pip failed: {_last_words(done.stderr or done.stdout)}")
        fetched = Path(folder) / source.filename
        if not fetched.is_file():
            names = ", ".join(sorted(entry.name for entry in Path(folder).iterdir())) or "nothing"
            raise SourceError(f"pip fetched {names} instead of {source.filename}")
        verify(fetched, source)
        shutil.copyfile(fetched, path)


def _last_words(output: str) -> str:
    """What pip says went wrong, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if retries := [line for line in lines if "after connection broken by" in line]:
        # Its last line would only say that no version was found.
        return f"it cannot reach its package index ({retries[-1].partition('connection broken by')[2].strip()})"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    warnings = [line.removeprefix("WARNING:").strip() for line in lines if line.startswith("WARNING:")]
    words = (errors or lines or ["it said nothing"])[-1]
    return f"{words} ({warnings[-1]})" if warnings and errors else words
