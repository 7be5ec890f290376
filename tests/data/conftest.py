"""A loopback server that misbehaves on request, and a machine without proxies or pip settings."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datakit
import pytest


@dataclass
class Reply:
    """One answer. `declared` is the Content-Length, when it should differ from the body's; -1 for none at all."""

    body: bytes = b""
    status: int = 200
    declared: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = False  # whether a Range is honoured
    stall: float = 0.0  # seconds of silence in the middle of the body


class Server:
    """Answers each path with its replies in turn; the last one is repeated."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[str] = []
        self.asked: list[str | None] = []  # the Range of each request
        self.stalled: set[str] = set()  # paths that stall at the moment
        self.together = 0  # most of them at once
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                outer.asked.append(self.headers.get("Range"))
                queue = outer.replies.get(self.path, [Reply(status=404)])
                reply = queue.pop(0) if len(queue) > 1 else queue[0]
                status, body, headers = reply.status, reply.body, dict(reply.headers)
                if reply.ranges and (span := self.headers.get("Range")):
                    start = int(span.removeprefix("bytes=").partition("-")[0])
                    same = self.headers.get("If-Range") in (None, headers.get("ETag"))
                    if same and start < len(body):
                        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                        status, body = 206, body[start:]
                    elif same:
                        status, body = 416, b""
                self.send_response(status)
                if reply.declared != -1:
                    self.send_header("Content-Length", str(reply.declared or len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # the client may have had enough
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    outer.stalled.add(self.path)
                    outer.together = max(outer.together, len(outer.stalled))
                    time.sleep(reply.stall)
                    outer.stalled.discard(self.path)
                    self.wfile.write(body[len(body) // 2 :])
                if reply.declared not in (None, len(body)):
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        ThreadingHTTPServer.block_on_close = False  # nobody waits for an answer that stalls
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def serve(self, path: str, *replies: Reply) -> str:
        """Answer `path` with `replies`; returns its URL."""
        self.replies[path] = list(replies)
        return f"{self.base}{path}"

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("PIP_FIND_LINKS", "PIP_CERT", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    # Nothing listens there: a test that forgets its own index stays offline.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture(scope="session")
def rows() -> list[datakit.Row]:
    return datakit.small_rows()
