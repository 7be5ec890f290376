"""Fetch a URL: resumed, retried, bounded in size and in time, verified.

A server is not trusted: whatever it sends is the file that was asked for, or there is an error.
"""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from seqbench import __version__, console
from seqbench.data.catalog import Source
from seqbench.data.download.errors import MissingError, SourceError, TransientError, without_secrets
from seqbench.data.download.part import Part
from seqbench.data.download.progress import Bars
from seqbench.data.download.verify import verify

ATTEMPTS = 3  # in a row that bring nothing new
RETRY_WAIT = 0.5  # seconds before the second attempt; twice as long before each further one
LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
TIMEOUT = httpx.Timeout(30, connect=10)  # seconds; the first is between two pieces of the body
HEADERS_WITHIN = 120.0  # seconds until an answer must have begun, redirects included
SLOWEST = 1 << 10  # bytes a second on average, over at least `SLOW_AFTER` seconds
SLOW_AFTER = 60.0
PROGRESS = 1 << 20  # bytes that an attempt must bring to count as one that did
LARGEST = 64 << 30  # bytes of a file whose size nobody published; the largest that is known here has 7 GB


def fetch_urls(source: Source, part: Part, bars: Bars) -> None:
    """Fetch into `part` from the first of a source's URLs that works.

    Raises:
        MissingError: no server has the file.
        SourceError: none works; the message says why.
    """
    assert source.url is not None
    urls = (source.url, *source.mirrors)
    reasons = []
    missing = True
    for url in urls:
        try:
            return _fetch(source, url, part, bars)
        except SourceError as error:
            missing &= isinstance(error, MissingError)
            reasons.append(str(error) if url == source.url else f"{without_secrets(url)}: {error}")
            if url != urls[-1]:
                console.note(f"{without_secrets(url)}: {error}. Trying the next mirror.")
    raise (MissingError if missing else SourceError)("; ".join(reasons))


def _fetch(source: Source, url: str, part: Part, bars: Bars) -> None:
    """Stream a URL to the part, with retries for what may pass, as long as each brings something or three have not."""
    fruitless = 0
    while True:
        before = part.size
        try:
            return _attempt(source, url, part, bars)
        except TransientError as error:
            fruitless = 1 if part.size >= before + PROGRESS else fruitless + 1
            if fruitless >= ATTEMPTS:
                raise SourceError(f"{error} ({ATTEMPTS} attempts)") from error
            bars.pause(min(max(RETRY_WAIT * 2 ** (fruitless - 1), error.wait), LONGEST_WAIT))


def _attempt(source: Source, url: str, part: Part, bars: Bars) -> None:
    part.path.parent.mkdir(parents=True, exist_ok=True)
    if source.size is not None and part.size > source.size:
        part.discard()
    asked = part.headers(source, url)
    resumed = bool(asked)
    if part.size != source.size or source.size is None:
        try:
            with _answer(url, asked) as response:
                resumed, total = _begin(source, url, part, response, resumed=resumed)
                _write(source, part, response, total, bars)
        except httpx.TimeoutException as error:
            raise TransientError("the connection timed out") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise SourceError(without_secrets(str(error))) from error
        except httpx.HTTPError as error:
            words = without_secrets(str(error)) or type(error).__name__
            raise TransientError(f"the connection failed ({words})") from error
    try:
        verify(part.path, source)
    except TransientError:
        raise  # too short: the rest may come
    except SourceError as error:
        part.discard()
        # Pieces of two files, perhaps: the whole may be right.
        raise TransientError(str(error)) if resumed else error from None


@contextmanager
def _answer(url: str, asked: dict[str, str]) -> Iterator[httpx.Response]:
    """Yield the answer to a request, its headers read, after redirects; never from https to http."""
    # Raw bytes are what the checksum is of, so no transfer compression.
    headers = {"User-Agent": f"seqbench/{__version__}", "Accept-Encoding": "identity", **asked}
    secure = False

    def check(request: httpx.Request) -> None:
        nonlocal secure
        if secure and request.url.scheme != "https":
            raise SourceError("the server redirects from https to http, where anybody could change the file")
        secure = request.url.scheme == "https"

    try:
        client = httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=headers, event_hooks={"request": [check]})
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        words = without_secrets(str(error))
        raise SourceError(f"the proxy or certificate settings cannot be used ({words})") from error
    with (
        client,
        _Deadline(HEADERS_WITHIN) as deadline,
        client.stream("GET", url, extensions={"trace": deadline.watch}) as response,
    ):
        deadline.stop()
        yield response


class _Deadline:
    """Cuts the connection of a server that does not come to the point: timeouts only limit the wait for each byte."""

    def __init__(self, seconds: float) -> None:
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the connection live."""
        self._timer.cancel()

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Note the connections that are made, for httpx's trace extension."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._sockets.append(info["return_value"].get_extra_info("socket"))

    def _cut(self) -> None:
        for connected in self._sockets:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _begin(source: Source, url: str, part: Part, response: httpx.Response, *, resumed: bool) -> tuple[bool, int | None]:
    """Judge the head of an answer.

    Returns:
        Whether it goes on where the part ends, and the bytes of the whole file if the answer says so.
    """
    status = response.status_code
    if resumed and status == httpx.codes.PARTIAL_CONTENT:
        start, total = _content_range(response)
        fits = total is not None or source.pinned if source.size is None else total in (None, source.size)
        same = source.pinned or response.headers.get("ETag") == part.etag_of(url)
        if start == part.size and fits and same and (total or 0) <= LARGEST:
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
    written = response.headers.get("Content-Length", "")
    length = int(written) if re.fullmatch(r"[0-9]{1,18}", written) else None
    if not source.pinned:
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "")
        if not chunked and length is None:
            raise SourceError("the server does not say how long the file is, so a cut could not be noticed")
        if (length or 0) > LARGEST:
            raise SourceError(f"the file has {length:,} bytes, more than any data set")
        part.remember(url, response)
    return False, source.size or length


def _write(source: Source, part: Part, response: httpx.Response, total: int | None, bars: Bars) -> None:
    # Not the URL of the answer: a redirect may have put credentials into it.
    bar = bars.begin(part.target, without_secrets(str(source.url)), part.size, total)
    largest = LARGEST if source.size is None else source.size
    with part.path.open("ab") as file:
        begun, count = time.monotonic(), part.size
        least = count
        for block in response.iter_raw():
            count += len(block)
            if count > largest:
                file.close()
                part.discard()
                whose = f"than the {largest:,} bytes of the file" if source.size else "bytes than any data set has"
                raise SourceError(f"the server sent more {whose}")
            file.write(block)
            bars.advance(bar, len(block))
            seconds = time.monotonic() - begun
            if seconds > SLOW_AFTER and count - least < SLOWEST * seconds:
                raise TransientError(f"the server sends less than {SLOWEST:,} bytes a second")
    if total is not None and part.size != total:  # a server may send a piece of what it was asked for
        raise TransientError(f"the file has {part.size:,} bytes instead of {total:,}")


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """Return first byte and total of `Content-Range: bytes 100-199/200`."""
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", ""))
    if not found:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _seconds(written: str) -> float:
    """Return the seconds in a Retry-After header; 0 for dates, which are not waited for."""
    return float(written) if re.fullmatch(r"[0-9]{1,9}", written) else 0.0
