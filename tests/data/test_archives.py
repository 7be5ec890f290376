"""What a user may give with --raw, and archives that mean harm."""

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import datakit
import pytest

from seqbench.data import archives
from seqbench.errors import SeqbenchError

SPEC = datakit.spec_of()
DATA = b"1\t2\t3\t4\n"


def read(*files: archives.RawFile) -> bytes:
    with archives.opened(*files) as (stream, _):
        return stream.read()


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(datakit.archive(members))
    return path


@pytest.mark.parametrize(
    ("name", "member", "format_"),
    [
        ("anything.zip", "ml-100k/u.data", "movielens-tab"),
        ("no-ending", "u.data", "movielens-tab"),
        ("recbole.whl", "recbole/dataset_example/ml-100k/ml-100k.inter", "recbole-inter"),
        ("ml-100k.zip", "ml-100k.inter", "recbole-inter"),
    ],
)
def test_archives(tmp_path: Path, name: str, member: str, format_: str) -> None:
    files = archives.locate(SPEC, zip_of(tmp_path / name, {"other": b"x", member: DATA}))
    assert (files.interactions[0].member, files.interactions[0].format) == (member, format_)
    assert files.items is None
    assert read(*files.interactions) == DATA


@pytest.mark.parametrize("name", ["u.data", "ml-100k/u.data", "ml-100k.inter"])
def test_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(DATA)
    assert read(*archives.locate(SPEC, tmp_path).interactions) == DATA


def test_folder_with_the_archive(tmp_path: Path) -> None:
    zip_of(tmp_path / "ml-100k.zip", {"ml-100k/u.data": DATA, "ml-100k/u.item": b"2|B|"})
    files = archives.locate(SPEC, tmp_path)
    assert read(*files.interactions) == DATA
    assert files.items is not None
    assert read(files.items) == b"2|B|"


@pytest.mark.parametrize(
    ("name", "format_"),
    [("u.data", "movielens-tab"), ("mine.data", "movielens-tab"), ("mine.inter", "recbole-inter")],
)
def test_single_files(tmp_path: Path, name: str, format_: str) -> None:
    (tmp_path / name).write_bytes(DATA)
    (tmp_path / "u.item").write_bytes(b"2|B|")
    files = archives.locate(SPEC, tmp_path / name)
    assert files.interactions[0].format == format_
    assert (files.items is not None) == (format_ == "movielens-tab")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ratings.csv").write_bytes(DATA)
    zip_of(tmp_path / "x.zip", {"readme": b""})
    for path in ("empty", "ratings.csv", "x.zip"):
        with pytest.raises(SeqbenchError, match="holds no raw file of ml-100k") as caught:
            archives.locate(SPEC, tmp_path / path)
        assert "ml-100k.zip, u.data, recbole-1.2.1-py3-none-any.whl, ml-100k.inter" in (caught.value.hint or "")
    with pytest.raises(SeqbenchError, match="does not exist"):
        archives.locate(SPEC, tmp_path / "missing")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "u.data").write_bytes(DATA)
    monkeypatch.setattr(Path, "open", refuse)  # root may read anything, so modes would not do
    with pytest.raises(SeqbenchError, match=r"u\.data cannot be read: Permission denied"):
        archives.locate(SPEC, tmp_path / "u.data")


def test_truncated_archive(tmp_path: Path, rows: list[datakit.Row]) -> None:
    whole = datakit.grouplens_zip(rows)
    for size in (1, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.zip"
        path.write_bytes(whole[:size])
        with pytest.raises(SeqbenchError, match=r"cut.zip.* is truncated or damaged"):
            read(*archives.locate(SPEC, path).interactions)


def test_flipped_bytes_in_an_archive(tmp_path: Path, rows: list[datakit.Row]) -> None:
    whole = datakit.grouplens_zip(rows)
    path = tmp_path / "flipped.zip"
    for at in range(0, len(whole), 97):
        content = bytearray(whole)
        content[at] ^= 0x55
        path.write_bytes(content)
        # Either the bits did not matter, or there is a clear error and no other.
        with contextlib.suppress(SeqbenchError):
            assert read(*archives.locate(SPEC, path).interactions) == datakit.u_data(rows)


def test_member_that_climbs_out_is_never_touched(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    hostile = {"../../u.data": DATA, "/u.data": DATA, "..\\u.data": DATA, "C:/u.data": DATA}
    path = zip_of(inside / "evil.zip", hostile)
    with pytest.raises(SeqbenchError, match="holds no raw file"):
        archives.locate(SPEC, path)
    path = zip_of(inside / "evil.zip", hostile | {"ml-100k/u.data": b"good"})
    assert read(*archives.locate(SPEC, path).interactions) == b"good"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_zip_bomb(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"u.data": bytes(64 << 20)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(SeqbenchError, match="unpacks to 67,108,864 bytes or more"):
        read(*archives.locate(SPEC, path).interactions)


def test_zip_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"u.data": bytes(64 << 20)})
    content = path.read_bytes().replace(struct.pack("<L", 64 << 20), struct.pack("<L", 1000))
    path.write_bytes(content)
    with pytest.raises(SeqbenchError, match="truncated or damaged"):
        read(*archives.locate(SPEC, path).interactions)


def test_actual_size_is_bounded_too() -> None:
    reader = archives.BoundedReader(io.BytesIO(bytes(20_000)), 10_000, "endless")
    with pytest.raises(SeqbenchError, match="endless unpacks to"):
        reader.readall()


def test_encrypted_member(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "secret.zip", {"u.data": DATA})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(SeqbenchError, match=r"truncated or damaged .*encrypted"):
        read(*archives.locate(SPEC, path).interactions)


def test_folder_named_like_a_member(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("u.data")
    with pytest.raises(SeqbenchError, match="holds no raw file"):
        archives.locate(SPEC, path)
