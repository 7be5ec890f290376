"""Fetching: retries, checksums, the next source, and one error that says it all."""

import dataclasses
import errno
import time
from io import StringIO
from pathlib import Path
from typing import Any

import datakit
import pytest
from rich.console import Console

from seqbench import console, paths
from seqbench.data import download
from seqbench.errors import SeqbenchError, StorageError

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RETRY_WAIT", 0.0)


def zip_at(url: str, content: bytes = CONTENT, **changes: Any) -> Any:
    return datakit.source_of(datakit.GROUPLENS, content, url=url, **changes)


def files_in(home: Path) -> list[str]:
    return sorted(p.name for p in paths.downloads(home).rglob("*") if p.is_file() and p.suffix != ".lock")


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
    monkeypatch.setattr(download, "RETRY_WAIT", 0.5)
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
        download.fetch(datakit.spec_of(zip_at("https://data.invalid/a.zip")), tmp_path)


def test_disk_full(server: Any, reply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "verify", full)
    with pytest.raises(StorageError, match=r"The disk is full: could not write .*ml-100k.zip"):
        download.fetch(datakit.spec_of(zip_at(server.serve("/a.zip", reply(CONTENT)))), tmp_path)
    assert files_in(tmp_path) == []


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
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SeqbenchError, match=r"pip is not installed for .* -m ensurepip"):
        download.fetch(datakit.spec_of(datakit.RECBOLE), tmp_path)
