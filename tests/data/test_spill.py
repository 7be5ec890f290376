"""Preparing with less memory than the rows need gives the same files, byte for byte."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqbench import paths
from seqbench.data import selection, spill
from seqbench.data.parsers import rows
from seqbench.data.prepare import prepare
from seqbench.data.prepared import INTERACTIONS, ITEMS, USERS
from seqbench.errors import StorageError, UsageError

N = 3000


def columns(ids: str) -> dict[str, Any]:
    """Rows in no order, with ties, pairs that come again, repeats, and users that a 4-core drops."""
    rng = np.random.default_rng(0)
    users, items = (rng.pareto(1.0, N) * 20).astype(int) % 90 + 1, (rng.pareto(1.0, N) * 20).astype(int) % 60 + 1
    made: dict[str, Any] = {"user": users, "item": items, "rating": rng.integers(1, 6, N) / 1.0}
    made["time"] = 1_600_000_000 + rng.integers(0, 400, N)
    if ids == "text":
        made["user"], made["item"] = [f"u{user}" for user in users], [f"i{item}é" for item in items]
    elif ids == "large":
        made["user"] = users * 9_000_000_000
    elif ids == "floats":
        made["user"] = [f"{user}.0" for user in users]
    elif ids == "fractions":
        made["time"] = made["time"] + rng.integers(0, 4, N) / 4
    elif ids == "sorted":
        made["user"] = np.sort(users)
    return made


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "LEAST", 100)
    for module in (selection, rows):
        monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(rows, "PENDING_ROWS", 500)
    monkeypatch.setattr(rows, "TABLE_FLOOR", 1 << 10)


FILTERS: dict[str, dict[str, Any]] = {
    "core": {"min_user": 4, "min_item": 4},
    "joint": {"min_user": 4, "min_item": 4, "rule": "joint-once", "duplicates": "first"},
    "once": {"min_user": 4, "min_item": 30, "rule": "item-then-user-once", "repeats": "drop"},
    "rated": {"min_rating": 3, "ties": "item", "duplicates": "last", "max_users": 20},
    "recbole": {"ties": "recbole"},
}
CASES = [
    *(("whole", name) for name in FILTERS),
    *((ids, "core") for ids in ("text", "large", "floats", "fractions", "sorted")),
]


@pytest.mark.parametrize(("ids", "filters"), CASES, ids="-".join)
def test_less_memory_than_the_rows_need_gives_the_same_files(
    ids: str, filters: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.parquet"
    pq.write_table(pa.table(columns(ids)), raw, row_group_size=700)
    for memory in (1 << 30, 20_000):
        prepared = prepare("mine", home=tmp_path / str(memory), raw=raw, columns={}, memory=memory, **FILTERS[filters])
        assert ("go to disk meanwhile" in capsys.readouterr().err) == (memory < 1 << 30)
        entries = {path.name for path in paths.prepared(tmp_path / str(memory)).iterdir()}
        assert entries == {"mine", ".mine.lock"}, "nothing is left behind"
        assert 0 < prepared.interactions <= N
    folders = [paths.prepared(tmp_path / str(memory), "mine") for memory in (1 << 30, 20_000)]
    for name in (INTERACTIONS, USERS, ITEMS):
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other, name


def test_only_parts_of_the_columns_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    order = selection._order_within
    monkeypatch.setattr(selection, "_order_within", lambda *keys: (sizes.append(len(keys[0])), order(*keys))[1])
    raw = tmp_path / "raw.parquet"
    pq.write_table(pa.table(columns("whole")), raw, row_group_size=700)
    prepare("mine", home=tmp_path, raw=raw, columns={}, memory=20_000)
    assert len(sizes) > 5
    assert sum(sizes) == N


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    raw = tmp_path / "raw.parquet"
    pq.write_table(pa.table(columns("whole")), raw)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(StorageError, match="full"):
        prepare("mine", home=tmp_path, raw=raw, columns={}, memory=20_000)


@pytest.mark.parametrize(
    ("text", "size"),
    [("3G", 3 << 30), ("3 GiB", 3 << 30), ("500m", 500 << 20), ("1.5k", 1536), ("7", 7), ("2TB", 2 << 40)],
)
def test_sizes_of_memory(text: str, size: int) -> None:
    assert spill.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "much", "nan", "inf"])
def test_what_is_no_size_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory takes a size such as 3G"):
        spill.parse_memory(text)
