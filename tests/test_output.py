"""Where a command writes what it was asked for with --output and --json."""

import contextlib
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from seqbench.errors import StorageError
from seqbench.files import read_regular, write_json, writing
from tests.kit import PATIENCE, Bench


def write(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text)


def test_a_file_is_replaced_and_a_new_one_made(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("before")
    inode = old.stat().st_ino
    for path in (old, tmp_path / "new"):
        write(path, "after")
        assert path.read_text() == "after"
    assert old.stat().st_ino != inode, "whoever reads the old file reads on"


def test_a_link_stays_a_link_and_its_target_gets_the_text(tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.write_text("before")
    link.symlink_to(real)
    write(link, "after")
    assert link.is_symlink()
    assert real.read_text() == "after"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "not yet")
    write(dangling, "made")
    assert (tmp_path / "not yet").read_text() == "made"


def test_a_pipe_stays_a_pipe_and_gets_the_text(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join(PATIENCE)
    assert read == ['{\n  "a": 1\n}\n']
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    null = tmp_path / "null"
    made = subprocess.run(["mknod", str(null), "c", "1", "3"], capture_output=True)
    if made.returncode or not null.is_char_device():
        pytest.skip("no device can be made here")
    with contextlib.suppress(StorageError):  # a file system may forbid to use devices, but the device must stay
        write(null, "text")
    assert null.is_char_device()


def fail(path: Path) -> None:
    with writing(path) as temporary:
        temporary.write_text("half")
        raise StorageError("half")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    link.symlink_to(real)
    for path in (real, link):
        with pytest.raises(StorageError, match="half"):
            fail(path)
        assert real.read_text() == "before"


def test_reports_go_through_links(bench: Bench, tmp_path: Path) -> None:
    assert bench.run("--models", "popularity", "--no-latency").code == 0
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real.csv")
    assert bench.call("report", "--csv", "--output", link).code == 0
    assert "popularity" in (tmp_path / "real.csv").read_text()
    assert link.is_symlink()


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"12345")
    with pytest.raises(ValueError, match="not a regular file"):
        read_regular(pipe, 100)
    with pytest.raises(ValueError, match="5 bytes, more than 4"):
        read_regular(large, 4)
    assert read_regular(large, 5) == b"12345"
