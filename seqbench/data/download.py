"""Fetch the sources of data sets, verified, to the downloads folder."""

import difflib
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from rich import filesize
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from seqbench import __version__, console, paths
from seqbench.data.catalog import DatasetSpec, Source, load_catalog
from seqbench.errors import SeqbenchError, storage_error
from seqbench.files import replacing
from seqbench.locking import locked
from seqbench.progress import duration

ATTEMPTS = 3  # in a row that bring nothing new
RETRY_WAIT = 0.5  # seconds before the second attempt; twice as long before each further one
LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
TIMEOUT = httpx.Timeout(30, connect=10)  # seconds; the first is between two pieces of the body
PIP_TIMEOUT = 600  # seconds
PROGRESS = 1 << 20  # bytes that an attempt must bring to count as one that did
AT_ONCE = 4  # files
SAY_EVERY = 30.0  # seconds between two lines of progress where there is no terminal


class SourceError(Exception):
    """A source cannot be used; the message says why, in words that end an error line."""


class MissingError(SourceError):
    """The server is there, but has no such file."""


class Interrupted(Exception):
    """All downloads are to end: no other source and no other attempt is tried."""


class TransientError(SourceError):
    """The same, but another attempt may succeed, `wait` seconds later at the earliest."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def fetch_all(specs: Sequence[DatasetSpec], home: Path, *, offline: bool = False) -> dict[str, SeqbenchError]:
    """Fetch several data sets, some at once, into `paths.downloads(home)`.

    Returns:
        name → what went wrong, of those that could not be had.
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


def fetch(spec: DatasetSpec, home: Path, *, offline: bool = False, bars: "Bars | None" = None) -> tuple[Source, Path]:
    """The first source of `spec` that can be had, and the verified file in `paths.downloads(home)`.

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
            reasons.append(f"  {position}. {source.label}, {source.location}\n     {error}")
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


def fetch_source(source: Source, folder: Path, bars: "Bars | None" = None) -> Path:
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
        if source.url is None:
            with replacing(target) as temporary:
                _fetch_wheel(source, temporary)
            return target
        part = Part(target)
        try:
            with bars or Bars() as shown:
                _fetch_urls(source, part, shown)
            part.finish(source)
        except OSError as error:
            raise storage_error(error, target) from error
    return target


def is_verified(path: Path, source: Source) -> bool:
    """Whether `path` exists and has the size and checksums of `source`, or those that it had when it was fetched."""
    if not path.is_file():
        return False
    try:
        verify(path, source)
        remembered = _remembered(path)
        return source.pinned or not remembered.exists() or remembered.read_text("ascii") == _digest(path, "sha256")
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
    if accepted and (digest := _digest(path, algorithm)) not in accepted:
        raise SourceError(f"its {algorithm} is {digest} instead of {' or '.join(accepted)}")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        # md5 protects from nothing, but some publishers state nothing else.
        return hashlib.file_digest(stream, functools.partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


def _remembered(path: Path) -> Path:
    """Where the sha256 of a file is kept whose publisher states none."""
    return path.with_name(f".{path.name}.sha256")


def forget(path: Path) -> bool:
    """Delete a file that turned out to be damaged, if it was fetched here: what a person put there stays.

    Returns:
        Whether it was fetched here.
    """
    ours = _remembered(path).exists()
    if ours:
        path.unlink(missing_ok=True)
        _remembered(path).unlink()
    return ours


class Part:
    """A file that is being fetched. It outlives a killed process, and the next one goes on where it ends."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self.tag = target.with_name(f".{target.name}.tag")  # the URL that it comes from, and that server's ETag

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Start from nothing."""
        if self.path.parent.is_dir():
            self.path.unlink(missing_ok=True)
            self.tag.unlink(missing_ok=True)

    def headers(self, source: Source, url: str) -> dict[str, str]:
        """The request for what is missing; discards what cannot be gone on with.

        A checksum tells whether the pieces belong together. Without one, only a server that vouches for it with
        an ETag is asked for the rest.
        """
        if not self.size:
            return {}
        if source.pinned:
            return {"Range": f"bytes={self.size}-"}
        known, _, etag = (self.tag.read_text("utf-8") if self.tag.exists() else "").partition("\n")
        if known == url and etag:
            return {"Range": f"bytes={self.size}-", "If-Range": etag}
        self.discard()
        return {}

    def remember(self, url: str, response: httpx.Response) -> None:
        """Keep the ETag of the file that a server begins to send."""
        etag = response.headers.get("ETag", "")
        self.tag.write_text(f"{url}\n{etag if etag.startswith(chr(34)) else ''}", "utf-8")

    def finish(self, source: Source) -> None:
        """Give the complete, verified file its name."""
        if not source.pinned:
            digest = _digest(self.path, "sha256")
            console.note(f"{source.filename}: no checksum is published for it; its sha256 is {digest}.")
            _remembered(self.target).write_text(digest, "ascii")
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        self.path.replace(self.target)
        self.tag.unlink(missing_ok=True)


def _fetch_urls(source: Source, part: Part, bars: "Bars") -> None:
    """Fetch from the first URL that works."""
    assert source.url is not None
    urls = (source.url, *source.mirrors)
    reasons = []
    missing = True
    for url in urls:
        try:
            return _fetch_url(source, url, part, bars)
        except SourceError as error:
            missing &= isinstance(error, MissingError)
            reasons.append(str(error) if url == source.url else f"{url}: {error}")
            if url != urls[-1]:
                console.note(f"{url}: {error}. Trying the next mirror.")
    raise (MissingError if missing else SourceError)("; ".join(reasons))


def _fetch_url(source: Source, url: str, part: Part, bars: "Bars") -> None:
    """Stream a URL to the part, with retries for what may pass, as long as each brings something or three have not."""
    fruitless = 0
    while True:
        before = part.size
        try:
            return _stream(source, url, part, bars)
        except TransientError as error:
            fruitless = 1 if part.size >= before + PROGRESS else fruitless + 1
            if fruitless >= ATTEMPTS:
                raise SourceError(f"{error} ({ATTEMPTS} attempts)") from error
            bars.pause(min(max(RETRY_WAIT * 2 ** (fruitless - 1), error.wait), LONGEST_WAIT))


def _stream(source: Source, url: str, part: Part, bars: "Bars") -> None:
    part.path.parent.mkdir(parents=True, exist_ok=True)
    if source.size is not None and part.size > source.size:
        part.discard()
    asked = part.headers(source, url)
    resumed = bool(asked)
    if part.size != source.size or source.size is None:
        # Raw bytes are what the checksum is of, so no transfer compression.
        headers = {"User-Agent": f"seqbench/{__version__}", "Accept-Encoding": "identity", **asked}
        try:
            client = httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=headers)
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            raise SourceError(f"the proxy or certificate settings cannot be used ({error})") from error
        try:
            with client, client.stream("GET", url) as response:
                resumed, total = _begins(source, url, part, response, resumed=resumed)
                _write(source, part, response, total, bars)
        except httpx.TimeoutException as error:
            raise TransientError("the connection timed out") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise SourceError(str(error)) from error
        except httpx.HTTPError as error:
            raise TransientError(f"the connection failed ({error or type(error).__name__})") from error
    try:
        verify(part.path, source)
    except TransientError:
        raise  # too short: the rest may come
    except SourceError as error:
        part.discard()
        # Pieces of two files, perhaps: the whole may be right.
        raise TransientError(str(error)) if resumed else error from None


def _begins(
    source: Source, url: str, part: Part, response: httpx.Response, *, resumed: bool
) -> tuple[bool, int | None]:
    """Judge the head of an answer: whether it goes on where the part ends, and the bytes of the file if it says so."""
    status = response.status_code
    if resumed and status == httpx.codes.PARTIAL_CONTENT:
        start, total = _content_range(response)
        fits = total is not None or source.pinned if source.size is None else total in (None, source.size)
        if start == part.size and fits:
            return True, source.size or total
        part.discard()
        raise TransientError("the server sent another piece than it was asked for")
    if resumed and status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.discard()
        raise TransientError("the server has no more than what was fetched before, which is not the file")
    if status != httpx.codes.OK:
        passing = status in (408, 425, 429) or response.is_server_error
        words = f"the server answered {status} {response.reason_phrase}".rstrip()
        if passing:
            raise TransientError(words, _seconds(response.headers.get("Retry-After", "")))
        raise MissingError(words) if status == httpx.codes.NOT_FOUND else SourceError(words)
    part.discard()
    length = response.headers.get("Content-Length", "")
    if not source.pinned:
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "")
        if not chunked and not length:
            raise SourceError("the server does not say how long the file is, so a cut could not be noticed")
        part.remember(url, response)
    return False, source.size or (int(length) if length.isdecimal() else None)


def _write(source: Source, part: Part, response: httpx.Response, total: int | None, bars: "Bars") -> None:
    bar = bars.begin(part.target, str(response.request.url), part.size, total)
    with part.path.open("ab") as file:
        count = part.size
        for block in response.iter_raw():
            count += len(block)
            if source.size is not None and count > source.size:
                file.close()
                part.discard()
                raise SourceError(f"the server sent more than the {source.size:,} bytes of the file")
            file.write(block)
            bars.advance(bar, len(block))
    if total is not None and part.size != total:  # a server may send a piece of what it was asked for
        raise TransientError(f"the file has {part.size:,} bytes instead of {total:,}")


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and total of `Content-Range: bytes 100-199/200`."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not found:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _seconds(written: str) -> float:
    """Of a Retry-After header; dates are not waited for."""
    return float(written) if written.isdecimal() else 0.0


class Bars:
    """How far the downloads are: bars on a terminal, lines elsewhere, nothing when quiet. May be entered repeatedly."""

    def __init__(self) -> None:
        self.stopped = threading.Event()  # downloads end at the next block
        self._depth = 0
        self._lock = threading.Lock()
        self._lines: dict[int, tuple[str, int, int | None, float, float, int]] = {}
        self._shown: Progress | None = None
        if not console.is_quiet() and console.err.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._shown = Progress(*columns, console=console.err, transient=True)

    def __enter__(self) -> "Bars":
        with self._lock:
            self._depth += 1
            if self._depth == 1 and self._shown is not None:
                self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and self._shown is not None:
                self._shown.stop()

    def begin(self, target: Path, url: str, done: int, total: int | None) -> int:
        """A file of `total` bytes begins, `done` of which are there. Returns what `advance` wants."""
        if self._shown is not None:
            for task in self._shown.tasks:
                if task.fields["target"] == target:  # another attempt
                    self._shown.update(task.id, total=total, completed=done)
                    return int(task.id)
            return int(self._shown.add_task(target.name, total=total, completed=done, target=target))
        size = f" ({filesize.decimal(total)})" if total else ""
        there = f", {filesize.decimal(done)} of which are there" if done else ""
        console.note(f"Fetching {url}{size}{there}")
        now = time.monotonic()
        with self._lock:
            number = len(self._lines)
            self._lines[number] = (target.name, done, total, now, now, done)
        return number

    def advance(self, bar: int, count: int) -> None:
        """So many bytes more.

        Raises:
            Interrupted: downloads are to end.
        """
        if self.stopped.is_set():
            raise Interrupted
        if self._shown is not None:
            self._shown.advance(bar, count)  # type: ignore[arg-type]
            return
        name, done, total, began, said, start = self._lines[bar]
        done, now = done + count, time.monotonic()
        if now - said >= SAY_EVERY:
            rate = (done - start) / (now - began)
            left = f", {duration((total - done) / rate)} left" if total and rate else ""
            share = f"{done / total:.0%} of {filesize.decimal(total)}" if total else filesize.decimal(done)
            console.note(f"{name}: {share}, {filesize.decimal(int(rate))}/s{left}")
            said = now
        self._lines[bar] = (name, done, total, began, said, start)

    def pause(self, seconds: float) -> None:
        """Wait, or until downloads are to end.

        Raises:
            Interrupted: they are.
        """
        if self.stopped.wait(seconds):
            raise Interrupted


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
