"""Fetching: retries, checksums, the next source, and one error that says it all."""

import contextlib
import dataclasses
import errno
import gzip
import random
import socket
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any

import datakit
import httpx
import pytest
from rich.console import Console

from seqbench import console, paths
from seqbench.data import download
from seqbench.data.catalog import get_spec, load_catalog
from seqbench.data.download import http, pip
from seqbench.data.download.errors import Interrupted, without_secrets
from seqbench.data.download.progress import Bars
from seqbench.data.prepare import prepare
from seqbench.errors import SeqbenchError, StorageError
from tests.kit import PATIENCE

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "RETRY_WAIT", 0.0)


def zip_at(url: str, content: bytes = CONTENT, **changes: Any) -> Any:
    return datakit.source_of(datakit.GROUPLENS, content, url=url, **changes)


def files_in(home: Path) -> list[str]:
    return sorted(
        p.name for p in paths.downloads(home).rglob("*") if p.is_file() and p.suffix not in (".lock", ".sha256")
    )


def test_fetches_once(server: Any, reply: Any, tmp_path: Path) -> None:
    source = zip_at(server.serve("/a.zip", reply(CONTENT)))
    for _ in range(2):
        used, path = download.fetch(datakit.spec_of(source), tmp_path)
        assert used is source
        assert path.read_bytes() == CONTENT
    assert server.requests == ["/a.zip"]
    assert files_in(tmp_path) == ["ml-100k.zip"]


@pytest.mark.parametrize("damage", ["shorter", "flipped", "empty"])
def test_damaged_file_is_fetched_again(server: Any, reply: Any, tmp_path: Path, damage: str) -> None:
    source = zip_at(server.serve("/a.zip", reply(CONTENT)))
    _, path = download.fetch(datakit.spec_of(source), tmp_path)
    path.write_bytes({"shorter": CONTENT[:-1], "flipped": b"\xff" + CONTENT[1:], "empty": b""}[damage])
    assert download.fetch(datakit.spec_of(source), tmp_path)[1].read_bytes() == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_retried(server: Any, reply: Any, tmp_path: Path, status: int) -> None:
    url = server.serve("/a.zip", reply(status=status), reply(CONTENT))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT


def test_cut_connection_is_retried(server: Any, reply: Any, tmp_path: Path) -> None:
    cut = reply(CONTENT[:1000], declared=len(CONTENT), headers={"Connection": "close"})
    short = reply(CONTENT[:1000])  # an honest length, but not that of the file
    url = server.serve("/a.zip", cut, short, reply(CONTENT))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_redirect(server: Any, reply: Any, tmp_path: Path) -> None:
    target = server.serve("/b.zip", reply(CONTENT))
    url = server.serve("/a.zip", reply(status=302, headers={"Location": target}))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT


def test_missing_file_is_not_retried(server: Any, tmp_path: Path) -> None:
    with pytest.raises(SeqbenchError, match="the server answered 404"):
        download.fetch(datakit.spec_of(zip_at(f"{server.base}/no.zip")), tmp_path)
    assert server.requests == ["/no.zip"]


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_wrong_checksum_goes_to_the_next_source(
    server: Any, reply: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    flipped = b"\xff" + CONTENT[1:]
    bad = zip_at(server.serve("/bad.zip", reply(flipped)))
    if algorithm == "md5":
        bad = dataclasses.replace(bad, sha256=())
    good = zip_at(server.serve("/good.zip", reply(CONTENT)), label="a mirror")
    used, path = download.fetch(datakit.spec_of(bad, good), tmp_path)
    assert used is good
    assert path.read_bytes() == CONTENT
    assert server.requests == ["/bad.zip", "/good.zip"]
    said = capsys.readouterr().err
    assert f"GroupLens: its {algorithm} is " in said
    assert getattr(bad, algorithm)[0] in said
    assert "Trying the next source" in said


def test_all_sources_fail(server: Any, reply: Any, tmp_path: Path) -> None:
    flipped = b"\xff" + CONTENT[1:]
    sources = (
        zip_at(server.serve("/bad.zip", reply(flipped))),
        zip_at(server.serve("/down.zip", reply(status=503)), label="a mirror"),
        zip_at("http://127.0.0.1:1/x.zip", label="nobody"),
    )
    with pytest.raises(SeqbenchError) as caught:
        download.fetch(datakit.spec_of(*sources), tmp_path)
    message = caught.value.message
    for source in sources:
        assert f"{source.label}, {source.url}" in message
    assert sources[0].sha256[0] in message
    assert "the server answered 503" in message
    assert "(3 attempts)" in message
    assert "the connection failed" in message
    assert "seqbench prepare ml-100k --raw PATH" in (caught.value.hint or "")
    assert files_in(tmp_path) == []


def test_no_network_is_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(http, "RETRY_WAIT", 0.5)
    before = time.monotonic()
    with pytest.raises(SeqbenchError, match="the connection failed"):
        download.fetch(datakit.spec_of(zip_at("http://127.0.0.1:1/x.zip")), tmp_path)
    assert time.monotonic() - before < 4


def test_oversized_body_is_cut_off(server: Any, reply: Any, tmp_path: Path) -> None:
    source = zip_at(server.serve("/a.zip", reply(CONTENT * 20)))
    with pytest.raises(SeqbenchError, match="sent more than the 256,000 bytes"):
        download.fetch(datakit.spec_of(source), tmp_path)


def test_proxy_is_honoured(server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://data.invalid/a.zip"
    server.serve(url, reply(CONTENT))
    monkeypatch.setenv("HTTP_PROXY", server.base)
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert server.requests == [url]


def test_unusable_settings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://x")
    with pytest.raises(SeqbenchError, match="the proxy or certificate settings cannot be used"):
        download.fetch(datakit.spec_of(zip_at("https://data.invalid/a.zip", mirrors=())), tmp_path)


def test_disk_full(server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    spec = datakit.spec_of(zip_at(server.serve("/a.zip", reply(CONTENT))))
    with monkeypatch.context() as patch:
        patch.setattr(http, "verify", full)
        with pytest.raises(StorageError, match=r"The disk is full: could not write .*ml-100k.zip"):
            download.fetch(spec, tmp_path)
    assert files_in(tmp_path) == [".ml-100k.zip.part"]
    assert download.fetch(spec, tmp_path)[1].read_bytes() == CONTENT
    assert server.requests == ["/a.zip"], "what was fetched is not fetched again"


def test_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="Cannot write"):
        download.fetch(datakit.spec_of(zip_at("http://127.0.0.1:1/x.zip")), tmp_path)


def test_leftovers_of_a_killed_process_go(server: Any, reply: Any, tmp_path: Path) -> None:
    left = paths.downloads(tmp_path) / "ml-100k" / ".ml-100k.zip.123.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    download.fetch(datakit.spec_of(zip_at(server.serve("/a.zip", reply(CONTENT)))), tmp_path)
    assert not left.exists()


def test_quiet(server: Any, reply: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.quiet(True)
    try:
        download.fetch(datakit.spec_of(zip_at(server.serve("/a.zip", reply(CONTENT)))), tmp_path)
    finally:
        console.quiet(False)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_on_a_terminal(server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=100))
    download.fetch(datakit.spec_of(zip_at(server.serve("/a.zip", reply(CONTENT)))), tmp_path)
    assert "ml-100k.zip" in screen.getvalue()
    assert "256.0/256.0 kB" in screen.getvalue()


def test_files_of_one_name_have_bars_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "err", Console(file=StringIO(), force_terminal=True, width=100))
    bars = Bars()
    one, other = (bars.begin(tmp_path / name / "ratings.csv", "http://x", 0, 10) for name in ("a", "b"))
    assert one != other
    assert bars.begin(tmp_path / "a" / "ratings.csv", "http://x", 5, 10) == one


def index_with(server: Any, reply: Any, monkeypatch: pytest.MonkeyPatch, wheel: bytes) -> None:
    name = datakit.RECBOLE.filename
    page = f'<!DOCTYPE html><html><body><a href="/files/{name}">{name}</a></body></html>'.encode()
    server.serve("/simple/recbole/", reply(page, headers={"Content-Type": "text/html"}))
    server.serve(f"/files/{name}", reply(wheel))
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.base}/simple/")


def test_wheel_comes_through_the_users_pip(
    server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[datakit.Row]
) -> None:
    wheel = datakit.recbole_wheel(rows)
    index_with(server, reply, monkeypatch, wheel)
    source = datakit.source_of(datakit.RECBOLE, wheel)
    assert download.fetch(datakit.spec_of(source), tmp_path)[1].read_bytes() == wheel
    assert files_in(tmp_path) == [datakit.RECBOLE.filename]


def test_other_wheel_is_rejected(
    server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[datakit.Row]
) -> None:
    wheel = datakit.recbole_wheel(rows)
    index_with(server, reply, monkeypatch, wheel)
    with pytest.raises(SeqbenchError, match=r"the file has .* bytes instead of 2,130,151"):
        download.fetch(datakit.spec_of(datakit.RECBOLE), tmp_path)
    assert files_in(tmp_path) == []


def test_pip_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(SeqbenchError, match="pip failed: it cannot reach its package index") as caught:
        download.fetch(datakit.spec_of(datakit.RECBOLE), tmp_path)
    assert "pip download recbole==1.2.1" in caught.value.message


def test_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SeqbenchError, match=r"pip is not installed for .* -m ensurepip"):
        download.fetch(datakit.spec_of(datakit.RECBOLE), tmp_path)


def part_of(home: Path) -> Path:
    return paths.downloads(home) / "ml-100k" / ".ml-100k.zip.part"


def test_a_cut_download_goes_on_where_it_ended(server: Any, reply: Any, tmp_path: Path) -> None:
    half = len(CONTENT) // 2
    cut = reply(CONTENT[:half], declared=len(CONTENT))
    url = server.serve("/a.zip", cut, reply(CONTENT, ranges=True))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={half}-"]


def test_the_next_process_goes_on_too(server: Any, reply: Any, tmp_path: Path) -> None:
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    url = server.serve("/a.zip", reply(CONTENT, ranges=True))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]
    assert not part_of(tmp_path).exists()


@pytest.mark.parametrize("left", [b"other" * 300, CONTENT + b"more", bytes(len(CONTENT))])
def test_what_another_file_left_is_not_built_upon(server: Any, reply: Any, tmp_path: Path, left: bytes) -> None:
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(left)
    url = server.serve("/a.zip", reply(CONTENT, ranges=True))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked[-1] is None


def test_a_server_that_ignores_ranges(server: Any, reply: Any, tmp_path: Path) -> None:
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    url = server.serve("/a.zip", reply(CONTENT))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert server.requests == ["/a.zip"]


def test_a_server_that_sends_another_piece(server: Any, reply: Any, tmp_path: Path) -> None:
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    wrong = reply(CONTENT[500:], status=206, headers={"Content-Range": f"bytes 500-{len(CONTENT) - 1}/{len(CONTENT)}"})
    url = server.serve("/a.zip", wrong, reply(CONTENT))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT


@pytest.mark.parametrize("range_", [f"bytes {'9' * 5000}-9/10", f"bytes 1000-1/{'9' * 5000}", "bytes ²-3/4", ""])
def test_a_content_range_that_is_none(server: Any, reply: Any, tmp_path: Path, range_: str) -> None:
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    wrong = reply(CONTENT[1000:], status=206, headers={"Content-Range": range_})
    url = server.serve("/a.zip", wrong, reply(CONTENT))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT


UNPINNED: dict[str, Any] = {"size": None, "md5": (), "sha256": ()}


def test_without_a_checksum_only_the_same_file_is_gone_on_with(server: Any, reply: Any, tmp_path: Path) -> None:
    """The file changed between two attempts: an ETag says so, and pieces of both are never joined."""
    half = len(CONTENT) // 2
    old = reply(bytes(half), declared=len(CONTENT), headers={"ETag": '"old"'})
    url = server.serve("/a.zip", old, reply(CONTENT, ranges=True, headers={"ETag": '"new"'}))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={half}-"]


def test_a_server_may_send_a_piece_of_what_it_was_asked_for(server: Any, reply: Any, tmp_path: Path) -> None:
    etag = {"ETag": '"a"'}
    cut = reply(CONTENT[:1000], declared=len(CONTENT), headers=etag)
    piece = reply(CONTENT[1000:1500], status=206, headers={**etag, "Content-Range": f"bytes 1000-1499/{len(CONTENT)}"})
    url = server.serve("/a.zip", cut, piece, reply(CONTENT, ranges=True, headers=etag))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_without_a_checksum_a_piece_of_an_unknown_whole_is_not_gone_on_with(
    server: Any, reply: Any, tmp_path: Path
) -> None:
    etag = {"ETag": '"a"'}
    cut = reply(CONTENT[:1000], declared=len(CONTENT), headers=etag)
    piece = reply(CONTENT[1000:1500], status=206, headers={**etag, "Content-Range": "bytes 1000-1499/*"})
    url = server.serve("/a.zip", cut, piece, reply(CONTENT))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", None]


@pytest.mark.parametrize("etag", [{"ETag": '"b"'}, {"ETag": 'W/"a"'}, {}])
def test_without_a_checksum_pieces_of_two_files_are_not_joined(
    server: Any, reply: Any, tmp_path: Path, etag: dict[str, str]
) -> None:
    cut = reply(bytes(1000), declared=len(CONTENT), headers={"ETag": '"a"'})
    span = {"Content-Range": f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"}
    url = server.serve("/a.zip", cut, reply(CONTENT[1000:], status=206, headers={**span, **etag}), reply(CONTENT))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", None]


@pytest.mark.parametrize("etag", ['"é"', '"a b"', '"', "a", '"\x7f"'])
def test_an_etag_that_cannot_be_sent_back_vouches_for_nothing(
    server: Any, reply: Any, tmp_path: Path, etag: str
) -> None:
    cut = reply(CONTENT[:1000], declared=len(CONTENT), headers={"ETag": etag})
    url = server.serve("/a.zip", cut, reply(CONTENT, ranges=True, headers={"ETag": etag}))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_tag_file_of_other_bytes_vouches_for_nothing(server: Any, reply: Any, tmp_path: Path) -> None:
    part = part_of(tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    part.with_name(".ml-100k.zip.tag").write_bytes(b"\xff\xfe")
    url = server.serve("/a.zip", reply(CONTENT, ranges=True))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None]


def test_the_tag_of_another_address_vouches_for_nothing(server: Any, reply: Any, tmp_path: Path) -> None:
    part = part_of(tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    part.with_name(".ml-100k.zip.tag").write_text('http://127.0.0.1:1/a.zip\n"same"')
    url = server.serve("/a.zip", reply(CONTENT, ranges=True, headers={"ETag": '"same"'}))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None]


@pytest.mark.parametrize("declared", [None, -1])
def test_without_a_size_there_is_a_limit(
    server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: int | None
) -> None:
    monkeypatch.setattr(http, "LARGEST", 100_000)
    headers = {"Transfer-Encoding": "chunked"} if declared else {}
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT) if declared else CONTENT
    url = server.serve("/a.zip", reply(body, declared=declared, headers=headers))
    with pytest.raises(SeqbenchError, match=r"more (bytes )?than any data set"):
        download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)
    assert files_in(tmp_path) == []


def test_a_server_that_drips_is_given_up(
    server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SLOW_AFTER", 0.1)
    monkeypatch.setattr(http, "SLOWEST", 10 * len(CONTENT))
    url = server.serve("/a.zip", reply(CONTENT, stall=0.3))
    with pytest.raises(SeqbenchError, match="the server sends less than"):
        download.fetch(datakit.spec_of(zip_at(url)), tmp_path)


def test_headers_that_never_end_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADERS_WITHIN", 0.2)
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    stopped = threading.Event()

    def drip(listener: socket.socket) -> None:
        connected, _ = listener.accept()
        with connected, contextlib.suppress(OSError):
            connected.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not stopped.wait(0.02):
                connected.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.zip"
        with pytest.raises(SeqbenchError, match="the connection failed"):
            download.fetch(datakit.spec_of(zip_at(url)), tmp_path)
        stopped.set()
        thread.join()


def test_https_is_never_left_for_http(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.scheme == "https", "asked over http"
        return httpx.Response(302, headers={"Location": "http://data.invalid/b.zip"})

    class Client(httpx.Client):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, transport=httpx.MockTransport(answer))

    monkeypatch.setattr(http.httpx, "Client", Client)
    with pytest.raises(SeqbenchError, match="redirects from https to http"):
        download.fetch(datakit.spec_of(zip_at("https://data.invalid/a.zip", mirrors=())), tmp_path)


def test_secrets_are_not_printed(server: Any, reply: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = server.serve("/b.zip?X-Amz-Signature=TOKEN", reply(CONTENT)).replace("://", "://user:s3cret@")
    url = server.serve("/a.zip", reply(status=302, headers={"Location": target}))
    download.fetch(datakit.spec_of(zip_at(url)), tmp_path)
    said = capsys.readouterr().err
    assert f"Fetching {url}" in said.replace("\n", "")
    assert not any(secret in said for secret in ("s3cret", "TOKEN"))
    for text, shown in (
        ("see https://user:pass@host/x?token=1#f now", "see https://host/x?… now"),
        ("URL('http://a@b/')", "URL('http://b/')"),
        ("http://host/plain (3 attempts)", "http://host/plain (3 attempts)"),
    ):
        assert without_secrets(text) == shown


def test_without_a_checksum_and_an_etag_it_begins_anew(server: Any, reply: Any, tmp_path: Path) -> None:
    cut = reply(CONTENT[:1000], declared=len(CONTENT))
    url = server.serve("/a.zip", cut, reply(CONTENT, ranges=True))
    assert download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_without_a_checksum_what_was_fetched_is_remembered(
    server: Any, reply: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = datakit.spec_of(zip_at(server.serve("/a.zip", reply(CONTENT)), **UNPINNED))
    _, path = download.fetch(spec, tmp_path)
    assert "no checksum is published for it; its sha256 is" in " ".join(capsys.readouterr().err.split())
    download.fetch(spec, tmp_path)
    assert len(server.requests) == 1
    path.write_bytes(CONTENT[:-1])
    assert download.fetch(spec, tmp_path)[1].read_bytes() == CONTENT


def test_without_checksum_and_length_nothing_is_believed(server: Any, reply: Any, tmp_path: Path) -> None:
    url = server.serve("/a.zip", reply(CONTENT, declared=-1))
    with pytest.raises(SeqbenchError, match="does not say how long the file is"):
        download.fetch(datakit.spec_of(zip_at(url, **UNPINNED)), tmp_path)
    pinned = datakit.spec_of(zip_at(url))
    assert download.fetch(pinned, tmp_path)[1].read_bytes() == CONTENT


def test_any_of_several_checksums(server: Any, reply: Any, tmp_path: Path) -> None:
    source = zip_at(server.serve("/a.zip", reply(CONTENT)))
    source = dataclasses.replace(source, sha256=("0" * 64, *source.sha256), md5=())
    assert download.fetch(datakit.spec_of(source), tmp_path)[1].read_bytes() == CONTENT


def test_a_category_that_no_server_has_is_said_to_be_wrong(server: Any, reply: Any, tmp_path: Path) -> None:
    def spec(name: str, *sources: Any) -> Any:
        return dataclasses.replace(get_spec(name), sources=sources)

    gone = zip_at(f"{server.base}/gone.csv", mirrors=(f"{server.base}/gone-too.csv",))
    with pytest.raises(SeqbenchError, match="amazon-2018 has no category 'Beauty'") as caught:
        download.fetch(spec("amazon-2018:Beauty", gone), tmp_path)
    assert "Did you mean amazon-2018:All_Beauty?" in (caught.value.hint or "")
    busy = zip_at(server.serve("/busy.csv", reply(status=503)), label="another")
    for other in (spec("amazon-2018:Beauty", gone, busy), spec("steam", gone)):
        with pytest.raises(SeqbenchError, match="could not be fetched from any of its sources"):
            download.fetch(other, tmp_path)


def test_data_sets_that_are_made_of_the_same_file_fetch_it_once(server: Any, reply: Any, tmp_path: Path) -> None:
    url = server.serve("/ratings_Beauty.csv", reply(CONTENT))
    specs = []
    for name in ("amazon-beauty", "amazon-beauty-sasrec"):
        spec = get_spec(name)
        source = datakit.source_of(spec.sources[0], CONTENT, url=url)
        specs.append(dataclasses.replace(spec, sources=(source, *spec.sources[1:])))
    assert download.fetch_all(specs, tmp_path) == {}
    assert server.requests == ["/ratings_Beauty.csv"]
    assert download.fetch(specs[0], tmp_path)[1] == download.fetch(specs[1], tmp_path)[1]


def test_entries_that_share_downloads_want_the_same_file() -> None:
    sharing = [spec for spec in load_catalog().values() if spec.downloads]
    assert len(sharing) == 3
    for spec in sharing:
        assert spec.sources[0] == get_spec(str(spec.downloads)).sources[0]


def test_mirrors_in_order(server: Any, reply: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = [
        server.serve("/gone.zip", reply(status=404)),
        server.serve("/bad.zip", reply(b"\xff" + CONTENT[1:])),
        server.serve("/good.zip", reply(CONTENT)),
    ]
    source = zip_at(urls[0], mirrors=tuple(urls[1:]))
    assert download.fetch(datakit.spec_of(source), tmp_path)[1].read_bytes() == CONTENT
    assert server.requests == ["/gone.zip", "/bad.zip", "/good.zip"]
    assert "404 Not Found. Trying the next mirror." in " ".join(capsys.readouterr().err.split())


def test_a_stalled_connection_is_given_up(
    server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", httpx.Timeout(0.1))
    url = server.serve("/a.zip", reply(CONTENT, stall=0.5), reply(CONTENT, ranges=True))
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"]


def test_as_long_as_something_comes_it_goes_on(
    server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "PROGRESS", 20_000)
    step = 25_600
    pieces = [
        reply(
            CONTENT[start : start + step],
            status=206 if start else 200,
            declared=len(CONTENT) - start,
            headers={"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"},
        )
        for start in range(0, len(CONTENT), step)
    ]
    url = server.serve("/a.zip", *pieces)
    assert download.fetch(datakit.spec_of(zip_at(url)), tmp_path)[1].read_bytes() == CONTENT
    assert len(server.requests) == 10


def test_retry_after_is_heeded(server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Bars, "pause", lambda self, seconds: waited.append(seconds))
    busy = [reply(status=429, headers={"Retry-After": after}) for after in ("7", "99999")]
    url = server.serve("/a.zip", *busy, reply(CONTENT))
    download.fetch(datakit.spec_of(zip_at(url)), tmp_path)
    assert waited == [7.0, http.LONGEST_WAIT]
    assert [http._seconds(written) for written in ("²", "soon", "")] == [0.0] * 3


def test_redirects_in_a_circle(server: Any, reply: Any, tmp_path: Path) -> None:
    url = server.serve("/a.zip", reply(status=302, headers={"Location": "/a.zip"}))
    with pytest.raises(SeqbenchError, match="Exceeded maximum allowed redirects"):
        download.fetch(datakit.spec_of(zip_at(url)), tmp_path)


def test_offline(server: Any, reply: Any, tmp_path: Path) -> None:
    spec = datakit.spec_of(zip_at(server.serve("/a.zip", reply(CONTENT))))
    with pytest.raises(SeqbenchError, match="because of --offline") as caught:
        download.fetch(spec, tmp_path, offline=True)
    assert server.requests == []
    folder = paths.downloads(tmp_path) / "ml-100k"
    assert f"put ml-100k.zip into {folder}" in (caught.value.hint or "")
    folder.mkdir(parents=True)
    (folder / "ml-100k.zip").write_bytes(CONTENT)  # by hand
    assert download.fetch(spec, tmp_path, offline=True)[1].read_bytes() == CONTENT
    assert server.requests == []


def test_by_hand(tmp_path: Path) -> None:
    for name in ("yelp", "xlong", "netflix"):
        spec = get_spec(name)
        assert spec.manual
        with pytest.raises(SeqbenchError, match=f"{name} has to be fetched by hand") as caught:
            download.fetch(spec, tmp_path)
        assert str(spec.homepage) in caught.value.message
        folder = paths.downloads(tmp_path) / name
        assert f"put {spec.sources[0].wanted} into {folder}" in (caught.value.hint or "")
        folder.mkdir(parents=True)
        (folder / spec.sources[0].filename).write_bytes(b"x")
        assert download.fetch(spec, tmp_path)[1].read_bytes() == b"x"


def test_several_at_once(server: Any, reply: Any, tmp_path: Path) -> None:
    specs = []
    for number in range(6):
        path = f"/{number}.zip"
        server.serve(path, reply(CONTENT, stall=0.5) if number != 4 else reply(status=404))
        specs.append(dataclasses.replace(datakit.spec_of(zip_at(f"{server.base}{path}")), name=f"set-{number}"))
    failed = download.fetch_all(specs, tmp_path)
    assert server.together > 1
    assert list(failed) == ["set-4"]
    assert len(files_in(tmp_path)) == 5


def test_interrupted_no_other_mirror_or_source_is_tried(server: Any, reply: Any, tmp_path: Path) -> None:
    mirrors = tuple(server.serve(f"/{number}.zip", reply(CONTENT)) for number in range(3))
    spec = datakit.spec_of(
        zip_at(mirrors[0], mirrors=mirrors[1:]), zip_at(server.serve("/other.zip", reply(CONTENT)), label="another")
    )
    bars = Bars()
    bars.stopped.set()
    with pytest.raises(Interrupted):
        download.fetch(spec, tmp_path, bars=bars)
    assert server.requests == ["/0.zip"]
    with pytest.raises(Interrupted):
        bars.pause(60)


FETCH = """
import dataclasses, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import datakit
from seqbench.data import download
from seqbench.data.catalog import get_spec
from seqbench.data.prepare import prepare
content = bytes(range(256)) * 1000
source = datakit.source_of(datakit.GROUPLENS, content, url=sys.argv[2])
print(download.fetch(datakit.spec_of(source), Path(sys.argv[1]))[1].read_bytes() == content)
"""


@pytest.mark.slow
def test_two_processes_fetch_once(server: Any, reply: Any, tmp_path: Path) -> None:
    url = server.serve("/a.zip", reply(CONTENT, stall=0.5))
    command = [sys.executable, "-c", FETCH, str(tmp_path), url, str(Path(__file__).parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=PATIENCE)[0] for process in running] == ["True\n"] * 3
    assert server.requests == ["/a.zip"]


def test_a_killed_process_leaves_what_it_had(server: Any, reply: Any, tmp_path: Path) -> None:
    url = server.serve("/a.zip", reply(CONTENT, stall=30), reply(CONTENT, ranges=True))
    command = [sys.executable, "-c", FETCH, str(tmp_path), url, str(Path(__file__).parent)]
    first = subprocess.Popen(command)
    until = time.monotonic() + 30
    while not (part_of(tmp_path).exists() and part_of(tmp_path).stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert files_in(tmp_path) == [".ml-100k.zip.part"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout == "True\n"
    assert server.asked[1] is not None


def faults(content: bytes, reply: Any, rng: random.Random) -> Any:
    """One answer of a server that is not to be trusted."""
    flipped = bytearray(content)
    flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    size = rng.randrange(len(content))
    return rng.choice(
        [
            reply(content, ranges=True),
            reply(content),
            reply(content[:size], declared=len(content)),  # cut
            reply(content[:size]),  # a shorter file, honestly
            reply(content + b"x" * size),
            reply(content, declared=size or 1),  # says less than it sends
            reply(content, declared=len(content) + 10),  # or more
            reply(bytes(flipped), ranges=True),
            reply(content[:size], status=206),
            reply(b"<html>Please log in</html>"),
            reply(b""),
            reply(status=rng.choice([403, 404, 416, 429, 500, 503])),
            reply(content, headers={"ETag": '"a"'}, ranges=True),
            reply(bytes(flipped)[:size], declared=len(content), headers={"ETag": '"a"'}),
        ]
    )


def check_faults(server: Any, reply: Any, tmp_path: Path, rows: list[datakit.Row], *, rounds: int, seed: int) -> None:
    """Whatever a server does, the data set is the right one or there is a clear error."""
    zipped = datakit.grouplens_zip(rows)
    packed = gzip.compress(datakit.u_data(rows))
    right = prepare(datakit.spec_of(), home=tmp_path / "right", raw=write(tmp_path / "x.zip", zipped)).fingerprint
    rng = random.Random(seed)
    outcomes = set()
    for number in range(rounds):
        home = tmp_path / str(number)
        content, pinned = (zipped, True) if rng.random() < 0.7 else (packed, False)
        replies = [faults(content, reply, rng) for _ in range(rng.randint(1, 4))]
        url = server.serve(f"/{number}", *replies)
        member = dataclasses.replace(datakit.GROUPLENS.interactions, sha256=(), member=("u.data",))
        source = zip_at(url, content, **({} if pinned else UNPINNED))
        if not pinned:
            source = dataclasses.replace(source, filename="u.data.gz", interactions=member)
        for _ in range(2):  # what the first command left must not mislead the second
            try:
                found = prepare(datakit.spec_of(source), home=home).fingerprint
            except SeqbenchError:
                found = "error"
            assert found in (right, "error"), replies
            assert (home / "prepared" / "ml-100k").exists() == (found == right)
            outcomes.add(found)
    assert outcomes == {"error", right}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_servers_that_are_not_to_be_trusted(server: Any, reply: Any, tmp_path: Path, rows: list[datakit.Row]) -> None:
    check_faults(server, reply, tmp_path, rows, rounds=10, seed=1)


@pytest.mark.slow
def test_many_such_servers(server: Any, reply: Any, tmp_path: Path, rows: list[datakit.Row]) -> None:
    check_faults(server, reply, tmp_path, rows, rounds=400, seed=2)


@pytest.mark.skipif(not datakit.SHARED.is_dir(), reason="the real files may not be redistributed")
def test_the_published_zip_over_a_bad_line(server: Any, reply: Any, tmp_path: Path) -> None:
    content = (datakit.SHARED / "raw" / "ml-latest-small" / "ml-latest-small.zip").read_bytes()
    url = server.serve(
        "/ml.zip",
        reply(content[:300_000], declared=len(content)),
        reply(content[:-1] + b"x", ranges=True),
        reply(content, ranges=True),
    )
    spec = get_spec("ml-latest-small")
    source = dataclasses.replace(spec.sources[0], url=url, mirrors=())
    prepared = prepare(dataclasses.replace(spec, sources=(source,)), home=tmp_path)
    assert (prepared.users, prepared.items, prepared.interactions) == (610, 3650, 90_274)
    assert prepared.meta["count_mismatch"] is None
