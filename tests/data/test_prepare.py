"""From raw files to Parquet: the whole way, twice, interrupted, in parallel, and on a full disk."""

import dataclasses
import errno
import json
import subprocess
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import datakit
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from seqbench import columns, paths
from seqbench.data import download, selection, writer
from seqbench.data.catalog import Counts, DatasetSpec, Expected
from seqbench.data.parsers import delimited
from seqbench.data.prepare import prepare, prepare_all
from seqbench.data.prepared import PreparedDataset, list_prepared, open_prepared
from seqbench.data.synthetic import SyntheticOptions
from seqbench.errors import SeqbenchError, StorageError, UsageError
from seqbench.show.prepared import counts_table
from tests.kit import PATIENCE, on_small_disk

SPEC = datakit.spec_of()


@pytest.fixture
def raw(tmp_path: Path, rows: list[datakit.Row]) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "u.data").write_bytes(datakit.u_data(rows))
    (folder / "u.item").write_bytes(datakit.u_item(rows))
    (folder / "ml-100k.inter").write_bytes(datakit.inter(rows))
    return folder / "u.data"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def entries(home: Path) -> list[str]:
    return sorted(p.name for p in paths.prepared(home).iterdir() if p.suffix != ".lock")


def core(rows: list[datakit.Row], k: int) -> list[datakit.Row]:
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        left = [row for row in rows if users[row[0]] >= k and items[row[1]] >= k]
        if len(left) == len(rows):
            return rows
        rows = left


@pytest.mark.parametrize("ties", ["file", "item"])
def test_against_plain_python(home: Path, raw: Path, rows: list[datakit.Row], ties: str) -> None:
    k = 13  # drops a third, in several rounds
    left = core(rows, k)
    assert 0 < len(left) < len(rows)
    prepared = prepare(SPEC, home=home, raw=raw, min_user=k, min_item=k, ties=ties)
    users = sorted({row[0] for row in left}, key=int)
    items = sorted({row[1] for row in left}, key=int)
    if ties == "item":
        left = sorted(left, key=lambda row: int(row[1]))
    left = sorted(left, key=lambda row: (int(row[0]), row[3]))

    got = prepared.load()
    names = [columns.USER, columns.ITEM, columns.TIMESTAMP]
    assert list(got.columns) == names
    assert [got[name].dtype for name in names] == [np.int32, np.int32, np.int64]
    assert got[columns.USER].tolist() == [users.index(row[0]) + 1 for row in left]
    assert got[columns.ITEM].tolist() == [items.index(row[1]) + 1 for row in left]
    assert got[columns.TIMESTAMP].tolist() == [row[3] for row in left]
    assert (got.users.to_pylist(), got.items.to_pylist()) == (users, items)
    assert (prepared.users, prepared.items, prepared.interactions) == (len(users), len(items), len(left))
    table = pq.read_table(prepared.directory / "users.parquet")
    assert table.column(columns.USER).to_pylist() == list(range(1, len(users) + 1))
    assert table.column(columns.RAW).to_pylist() == users
    table = pq.read_table(prepared.directory / "items.parquet")
    assert table.column(columns.RAW).to_pylist() == items
    assert table.column(columns.TITLE).to_pylist() == [f"Café {item} (1995)" for item in items]


def test_tie_rules_differ(home: Path, raw: Path) -> None:
    by_file = prepare(SPEC, home=home, raw=raw)
    fingerprint = by_file.fingerprint
    by_item = prepare(SPEC, home=home, raw=raw, ties="item")
    assert by_item.fingerprint != fingerprint
    assert by_item.filters.ties == "item"


def test_order_of_recbole(home: Path, raw: Path, rows: list[datakit.Row]) -> None:
    prepared = prepare(SPEC, home=home, raw=raw, ties="recbole", min_user=1, min_item=1)
    assert prepared.ties == "recbole"
    assert prepared.splits == ["leave-one-out"]
    expected = sorted(rows, key=lambda row: (int(row[0]), np.float32(row[3])))
    log = prepared.load()
    assert [log.items[int(item) - 1].as_py() for item in log[columns.ITEM]] == [row[1] for row in expected]
    exact = prepare(SPEC, home=home, raw=raw, min_user=1, min_item=1).load()
    assert (log[columns.ITEM] != exact[columns.ITEM]).any()  # the times lie 60 s apart, a float32 holds each 64th


@pytest.mark.filterwarnings("ignore:The 'fastparquet' engine")
@pytest.mark.parametrize("engine", ["pyarrow", "fastparquet"])
def test_what_is_written_is_read_by_other_engines(home: Path, tmp_path: Path, engine: str) -> None:
    """Times at the edges, and in an order whose differences need all bits."""
    pytest.importorskip(engine)
    times = [-(2**62), 2**62, -1, 0, 1, 1_700_000_000_123_456_789, *range(5000), 5, -(2**40)]
    text = "".join(f"{number // 5},{number % 7},{time}\n" for number, time in enumerate(times))
    (tmp_path / "x.csv").write_text("user,item,time\n" + text)
    prepared = prepare("mine", raw=tmp_path / "x.csv", home=home)
    log = prepared.load()
    frame = pd.read_parquet(prepared.directory / "interactions.parquet", engine=engine)
    for name in (columns.USER, columns.ITEM, columns.TIMESTAMP):
        assert frame[name].tolist() == log[name].tolist()
    assert sorted(frame[columns.TIMESTAMP]) == sorted(times)
    for name in ("users", "items"):
        raw_ids = pd.read_parquet(prepared.directory / f"{name}.parquet", engine=engine)[columns.RAW]
        assert raw_ids.tolist() == getattr(log, name).to_pylist()


def test_meta(home: Path, raw: Path, rows: list[datakit.Row]) -> None:
    meta = json.loads((prepare(SPEC, home=home, raw=raw).directory / "meta.json").read_text(encoding="utf-8"))
    assert meta["name"] == "ml-100k"
    assert meta["raw_counts"]["interactions"] == len(rows)
    assert meta["filters"] == {
        "rule": "k-core",
        "min_user": 5,
        "min_item": 5,
        "min_rating": None,
        "duplicates": "none",
        "repeats": "keep",
        "ties": "file",
        "max_users": None,
    }
    assert meta["source"]["label"] == str(raw)
    assert len(meta["source"]["interactions_sha256"]) == 64
    assert meta["count_mismatch"] is None
    assert meta["malformed"] == []
    assert meta["max_len"] == 200
    assert meta["timestamp_unit"] == "seconds"
    assert "Harper" in meta["citation"]


def test_both_sources_give_the_same(tmp_path: Path, server: Any, reply: Any, rows: list[datakit.Row]) -> None:
    zipped = datakit.grouplens_zip(rows)
    source = datakit.source_of(datakit.GROUPLENS, zipped, url=server.serve("/a.zip", reply(zipped)))
    fetched = prepare(datakit.spec_of(source), home=tmp_path / "1")
    wheel = tmp_path / "recbole.whl"
    wheel.write_bytes(datakit.recbole_wheel(rows))
    given = prepare(SPEC, home=tmp_path / "2", raw=wheel)
    assert fetched.fingerprint == given.fingerprint
    for name in ("users.parquet", "items.parquet", "interactions.parquet"):
        assert pq.read_table(fetched.directory / name).equals(pq.read_table(given.directory / name))
    assert "GroupLens" in fetched.meta["source"]["label"]
    assert (fetched.meta["source"]["file_sha256"],) == source.sha256


@pytest.mark.skipif(not datakit.REAL.is_dir(), reason="the real files may not be redistributed")
@pytest.mark.parametrize("name", ["u.data", "ml-100k.inter"])
def test_real_ml_100k(home: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = prepare("ml-100k", home=home, raw=datakit.REAL / name)
    assert (prepared.users, prepared.items, prepared.interactions) == (943, 1349, 99_287)
    assert prepared.fingerprint == "736ad16dc551c50be9aab7ffc3ac612a577446484602aff6a70e8f64e9bb8fa5"
    assert prepared.meta["count_mismatch"] is None
    lengths = np.bincount(prepared.load()[columns.USER])[1:]
    assert (lengths.min(), lengths.max()) == (19, 648)
    assert "Warning" not in capsys.readouterr().err


@pytest.mark.skipif(not datakit.REAL.is_dir(), reason="the real files may not be redistributed")
@pytest.mark.parametrize(("k", "different"), [(1, 281), (5, 284)])
def test_real_ties_change_the_test_item(home: Path, k: int, different: int) -> None:
    last = []
    for ties in ("file", "item"):
        prepared = prepare("ml-100k", home=home, raw=datakit.REAL, ties=ties, min_user=k, min_item=k)
        log = prepared.load()
        users, items = log[columns.USER], log[columns.ITEM]
        last.append(items[np.flatnonzero(np.diff(users, append=users[-1] + 1))])
    assert int((last[0] != last[1]).sum()) == different


def test_mismatch_is_loud(home: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = Expected("a paper", Counts(51, 60, 10))
    spec = dataclasses.replace(SPEC, expected=expected)
    prepared = prepare(spec, home=home, raw=raw)
    said = capsys.readouterr().err
    assert "Warning: ml-100k does not have the published size: users 50 (published 51)" in said
    assert "users 50 (published 51), interactions" in prepared.meta["count_mismatch"]
    # Other filters are not comparable.
    assert prepare(spec, home=home, raw=raw, min_user=12).meta["count_mismatch"] is None


def test_altered_copy_is_named(home: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("ml-100k", home=home, raw=raw)
    assert "u.data is not the published file: its sha256 is" in capsys.readouterr().err


def test_malformed_rows_are_reported(
    home: Path, raw: Path, rows: list[datakit.Row], capsys: pytest.CaptureFixture[str]
) -> None:
    content = datakit.u_data(datakit.small_rows(users=80, items=200, seed=1))
    raw.write_bytes(content + b"1\t2\n")
    prepared = prepare(SPEC, home=home, raw=raw, min_item=1)
    line = content.count(b"\n") + 1
    assert prepared.meta["malformed"] == [{"kind": "wrong number of fields", "rows": 1, "lines": [line]}]
    assert f"rows left out, wrong number of fields: 1 (line {line})" in capsys.readouterr().err


@pytest.mark.parametrize(("duplicates", "count"), [("none", 15), ("first", 10)])
def test_duplicate_rules(home: Path, tmp_path: Path, duplicates: str, count: int) -> None:
    pairs = [("1", str(item), 3, 100 + item) for item in range(5)] + [
        ("2", str(item), 3, 100 + item) for item in range(5)
    ]
    again = [("1", str(item), 3, item) for item in range(5)]  # earlier, but later in the file
    path = tmp_path / "u.data"
    path.write_bytes(datakit.u_data(pairs + again))
    times = prepare(SPEC, home=home, raw=path, min_item=2, duplicates=duplicates).load()[columns.TIMESTAMP]
    assert len(times) == count
    assert times[:5].tolist() == [0, 1, 2, 3, 4]


def test_prepared_twice_is_reused(home: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare(SPEC, home=home, raw=raw)
    stamp = (first.directory / "meta.json").stat().st_mtime_ns
    for given in (raw, None):
        again = prepare(SPEC, home=home, raw=given)
        assert (again.directory / "meta.json").stat().st_mtime_ns == stamp
        assert "already prepared" in capsys.readouterr().err
    prepare(SPEC, home=home, raw=raw, force=True)
    forced = (first.directory / "meta.json").stat().st_mtime_ns
    assert forced != stamp
    prepare(SPEC, home=home, raw=raw, min_user=11)
    assert "was prepared with other options and is replaced" in capsys.readouterr().err
    assert open_prepared("ml-100k", home).meta["filters"]["min_user"] == 11
    raw.write_bytes(raw.read_bytes() + b"1\t999\t3\t880000000\n")
    assert prepare(SPEC, home=home, raw=raw, min_item=1).meta["raw_counts"]["items"] == 61


def test_empty_after_filtering(home: Path, raw: Path, rows: list[datakit.Row]) -> None:
    with pytest.raises(SeqbenchError, match=r"passes the filters \(at least 50 per user and 5 per item\)") as caught:
        prepare(SPEC, home=home, raw=raw, min_user=50)
    assert f"50 users, 60 items and {len(rows):,} interactions" in caught.value.message
    assert "--min-user" in (caught.value.hint or "")
    with pytest.raises(SeqbenchError, match=r"\(ratings from 9, at least 5 per user and 5 per item\)") as caught:
        prepare(SPEC, home=home, raw=raw, min_rating=9)
    assert caught.value.hint == "Lower --min-rating, --min-user or --min-item."
    assert entries(home) == []


def test_options_that_do_not_fit(home: Path, raw: Path) -> None:
    for options, words in (
        ({"min_user": 0}, "--min-user must be at least 1, not 0"),
        ({"max_users": 0}, "--max-users must be at least 1"),
        ({"ties": "random"}, "--ties must be one of file, item"),
        ({"rule": "once"}, "--rule must be one of k-core, joint-once, item-then-user-once, not 'once'"),
        ({"min_users": 3}, "'min_users' is no filter"),
        ({"synthetic": SyntheticOptions()}, "ml-100k is not generated"),
    ):
        with pytest.raises(UsageError, match=words):
            prepare(SPEC, home=home, raw=raw, **options)
    with pytest.raises(UsageError, match="--raw does not apply"):
        prepare("synthetic", home=home, raw=raw)
    with pytest.raises(UsageError, match=r"'ml100k' is unknown. Did you mean ml-100k\?"):
        prepare("ml100k", home=home)
    with pytest.raises(SeqbenchError, match=r"missing\.zip cannot be read: No such file"):
        prepare(SPEC, home=home, raw=raw.parent / "missing.zip")


def break_writing(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    sync = writer._sync

    def failing(path: Path) -> None:
        if path.name == name:
            raise error
        sync(path)

    monkeypatch.setattr(writer, "_sync", failing)


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet", "meta.json"])
def test_disk_full_leaves_nothing_half_done(home: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        break_writing(patch, name, error)
        with pytest.raises(StorageError, match=r"The disk is full: could not write .*prepared/ml-100k\."):
            prepare(SPEC, home=home, raw=raw)
    assert entries(home) == []
    before = prepare(SPEC, home=home, raw=raw).fingerprint
    with monkeypatch.context() as patch:
        break_writing(patch, name, error)
        with pytest.raises(StorageError):
            prepare(SPEC, home=home, raw=raw, ties="item")
    assert entries(home) == ["ml-100k"]
    assert open_prepared("ml-100k", home).fingerprint == before


def test_interrupt_leaves_nothing_half_done(home: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_writing(monkeypatch, "meta.json", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare(SPEC, home=home, raw=raw)
    assert entries(home) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_between_the_renames_leaves_the_old_data(
    home: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = prepare(SPEC, home=home, raw=raw).fingerprint
    rename = Path.rename

    def second_fails(self: Path, target: Path) -> Path:
        if self.suffix == ".new":
            raise error
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", second_fails)
        with pytest.raises((StorageError, KeyboardInterrupt)):
            prepare(SPEC, home=home, raw=raw, ties="item")
    assert entries(home) == ["ml-100k"]
    assert open_prepared("ml-100k", home).fingerprint == before


def test_a_process_killed_between_the_renames_leaves_the_old_data(home: Path, raw: Path) -> None:
    folder = prepare(SPEC, home=home, raw=raw).directory
    stamp = (folder / "meta.json").stat().st_mtime_ns
    folder.rename(folder.with_name(".ml-100k.old"))
    assert (prepare(SPEC, home=home, raw=raw).directory / "meta.json").stat().st_mtime_ns == stamp


def test_leftovers_of_a_killed_process_do_not_count(home: Path, raw: Path) -> None:
    left = paths.prepared(home) / ".ml-100k.new"
    left.mkdir(parents=True)
    (left / "interactions.parquet").write_bytes(b"half")
    assert list_prepared(home) == []
    with pytest.raises(SeqbenchError, match="is not prepared"):
        open_prepared("ml-100k", home)
    prepare(SPEC, home=home, raw=raw)
    assert entries(home) == ["ml-100k"]


PREPARE = """
import sys
from pathlib import Path
from seqbench.data.parsers import delimited
from seqbench.data.prepare import prepare
from seqbench.errors import SeqbenchError
try:
    print(prepare("ml-100k", home=Path(sys.argv[1]), raw=Path(sys.argv[2])).fingerprint)
except SeqbenchError as error:
    sys.exit(f"{type(error).__name__}: {error.message}")
"""


def test_two_processes_at_once(home: Path, raw: Path, rows: list[datakit.Row]) -> None:
    command = [sys.executable, "-c", PREPARE, str(home), str(raw)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=PATIENCE) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert sum("already prepared" in err for _, err in answers) == 2
    assert entries(home) == ["ml-100k"]


def test_really_full_disk(tmp_path: Path, raw: Path) -> None:
    mount = tmp_path / "mount"
    wrapper = on_small_disk(mount, "12k")
    # What is left afterwards has to be looked at before the file system goes.
    script = f'"$@"; code=$?; find "{mount}" -type f -size +0; exit $code'
    command = [
        *wrapper,
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "-c",
        PREPARE,
        str(mount),
        str(raw),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "StorageError: The disk is full" in done.stderr
    assert done.stdout == ""


def prepared_small(home: Path, raw: Path) -> PreparedDataset:
    return prepare(SPEC, home=home, raw=raw)


def test_open_and_list(home: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_prepared(home) == []
    with pytest.raises(SeqbenchError, match="'ml-100k' is not prepared") as caught:
        open_prepared("ml-100k", home)
    assert "seqbench prepare ml-100k" in (caught.value.hint or "")
    prepared_small(home, raw)
    assert open_prepared("ml-100k", home).interactions > 0
    assert [entry.name for entry in list_prepared(home)] == ["ml-100k"]
    for name in ("ml-10", "../prepared/ml-100k", ".ml-100k.lock", ""):
        with pytest.raises(UsageError, match="is unknown"):
            open_prepared(name, home)


@pytest.mark.parametrize("damage", ["meta", "cut meta", "missing", "cut", "edited"])
def test_damage_is_found(home: Path, raw: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    folder = prepared_small(home, raw).directory
    interactions = folder / "interactions.parquet"
    if damage == "meta":
        (folder / "meta.json").unlink()
    elif damage == "cut meta":
        (folder / "meta.json").write_text('{"name": "ml-100k"')
    elif damage == "missing":
        interactions.unlink()
    elif damage == "cut":
        interactions.write_bytes(interactions.read_bytes()[:-100])
    else:
        table = pq.read_table(interactions)
        pq.write_table(table.slice(1), interactions)
    with pytest.raises(SeqbenchError, match=r"prepared/ml-100k is damaged") as caught:
        open_prepared("ml-100k", home).load()
    assert "seqbench prepare ml-100k --force" in (caught.value.hint or "")
    if damage in ("meta", "cut meta", "missing"):
        assert list_prepared(home) == []
        assert "is damaged" in capsys.readouterr().err
        prepared_small(home, raw)  # repairs it without --force
    else:
        prepare(SPEC, home=home, raw=raw, force=True)
    open_prepared("ml-100k", home).load()


def text_of(prepared: PreparedDataset) -> str:
    console = Console(file=StringIO(), width=100)
    console.print(counts_table(prepared))
    return console.file.getvalue()  # type: ignore[attr-defined]


def spec_expecting(users: int) -> DatasetSpec:
    return dataclasses.replace(SPEC, expected=Expected("a [paper]", Counts(users, 60, 10)))


def test_counts_table(home: Path, raw: Path) -> None:
    shown = text_of(prepare(spec_expecting(50), home=home, raw=raw))
    assert "Published: a [paper]" in shown
    line = next(line for line in shown.splitlines() if "users" in line)
    assert line.count("50") == 3
    assert ("✓" in line) or ("yes" in line)
    line = next(line for line in shown.splitlines() if "interactions" in line and "10" in line)
    assert ("✗" in line) or ("NO" in line)
    shown = text_of(prepare(spec_expecting(50), home=home, raw=raw, min_user=12))
    assert "Published counts are of other filters" in " ".join(shown.split())
    shown = text_of(prepare(SPEC, home=home, raw=raw, force=True))
    assert "ublished" not in shown


def test_least_rating_sample_and_name(home: Path, raw: Path, rows: list[datakit.Row]) -> None:
    liked = [row for row in rows if row[2] >= 4]
    prepared = prepare(SPEC, home=home, raw=raw, min_user=1, min_item=1, min_rating=4, name="liked")
    assert prepared.name == "liked"
    assert prepared.interactions == len(liked)
    assert prepared.meta["raw_counts"]["interactions"] == len(rows)
    assert prepared.filters.words() == "unfiltered, ratings from 4"
    few = prepare(SPEC, home=home, raw=raw, max_users=7)
    assert few.users == 7
    assert few.fingerprint == prepare(SPEC, home=home, raw=raw, max_users=7, force=True).fingerprint
    assert few.meta["counts"]["mean_length"] == round(few.interactions / 7, 1)
    assert few.filters.words() == "5-core, a sample of 7 users"
    lengths = {user: sum(row[0] == user for row in core(rows, 5)) for user, *_ in rows}
    names = pq.read_table(few.directory / "users.parquet").column(columns.RAW).to_pylist()
    assert np.bincount(few.load()[columns.USER])[1:].tolist() == [lengths[name] for name in names]
    assert entries(home) == ["liked", "ml-100k"]
    with pytest.raises(UsageError, match="has no ratings"):
        prepare("gowalla", home=home, raw=raw, min_rating=3)


def test_repeats_in_a_row(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    met = [("1", "7"), ("1", "7"), ("1", "8"), ("1", "7"), ("2", "7"), ("2", "7")]
    path.write_bytes(datakit.u_data([(user, item, 3, at) for at, (user, item) in enumerate(met)]))
    found = prepare(SPEC, home=home, raw=path, min_user=1, min_item=1, repeats="drop")
    assert found.load()[columns.ITEM].tolist() == [1, 2, 1, 1]
    assert found.filters.words() == "unfiltered, no repeats in a row"


@pytest.mark.parametrize("rule", ["joint-once", "item-then-user-once"])
def test_a_rule_of_its_own_is_compared_with_its_own_counts(home: Path, raw: Path, rule: str) -> None:
    filters = dataclasses.replace(SPEC.filters, rule=rule)
    spec = dataclasses.replace(SPEC, filters=filters, expected=Expected("a paper", Counts(50, 60, None)))
    prepared = prepare(spec, home=home, raw=raw)
    assert prepared.meta["count_mismatch"] is None
    assert prepared.meta["compared"]
    assert not prepare(spec, home=home, raw=raw, rule="k-core").meta["compared"]
    assert prepared.filters.words().startswith("5-core, ")
    assert "a paper" in text_of(prepared)


def test_raw_counts_are_compared_under_any_filter(home: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = dataclasses.replace(SPEC, expected=Expected("a paper", raw=Counts(50, None, 12)))
    prepared = prepare(spec, home=home, raw=raw, min_user=12)
    assert "raw interactions" in prepared.meta["count_mismatch"]
    assert "(published 12)" in " ".join(capsys.readouterr().err.split())
    assert "raw users" not in prepared.meta["count_mismatch"]


def test_memory_of_many_rows(home: Path, raw: Path) -> None:
    """What is written is what is read back, in data that fills several blocks, parts and row groups."""
    generator = np.random.default_rng(2)
    users, items = generator.integers(0, 3000, 300_000), generator.integers(0, 900, 300_000)
    times = generator.integers(0, 50, 300_000)
    np.savetxt(raw, np.stack([users, items, items, times], axis=1), fmt="%d", delimiter="\t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK", 100_000)
        patch.setattr(selection, "PART", 10_000)
        patch.setattr(selection, "CHUNK", 5_000)
        found = prepare(SPEC, home=home, raw=raw, min_user=1, min_item=1).load()
    order = np.lexsort((times, users))
    np.testing.assert_array_equal(found[columns.USER], users[order] + 1)
    np.testing.assert_array_equal(found[columns.ITEM], items[order] + 1)
    np.testing.assert_array_equal(found[columns.TIMESTAMP], times[order])


def unpinned(url: str | None = None) -> DatasetSpec:
    """A data set whose publisher states no checksum: to be fetched from `url`, or by hand."""
    manual = None if url else "log in"
    return datakit.spec_of(
        dataclasses.replace(
            datakit.local_sources()[0], url=url, manual=manual, mirrors=(), size=None, md5=(), sha256=()
        )
    )


def test_a_damaged_file_is_deleted_only_if_it_was_fetched_here(server: Any, reply: Any, home: Path) -> None:
    junk = datakit.archive({"ml-100k/u.data": b"nonsense\n" * 50})
    path = paths.downloads(home) / "ml-100k" / "ml-100k.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(junk)
    for spec in (unpinned(), unpinned(f"{server.base}/a.zip")):
        with pytest.raises(SeqbenchError, match="are malformed") as caught:
            prepare(spec, home=home)
        assert path.read_bytes() == junk
        assert "deleted" not in (caught.value.hint or "")
    path.unlink()
    with pytest.raises(SeqbenchError, match="are malformed") as caught:
        prepare(unpinned(server.serve("/a.zip", reply(junk))), home=home)
    assert not path.exists()
    assert caught.value.hint == "The file is deleted. Repeat the command to fetch it anew."


def test_a_variant_is_made_of_what_was_fetched_for_the_data_set(
    server: Any, reply: Any, home: Path, rows: list[datakit.Row]
) -> None:
    zipped = datakit.grouplens_zip(rows)
    source = datakit.source_of(datakit.GROUPLENS, zipped, url=server.serve("/a.zip", reply(zipped)))
    spec = datakit.spec_of(source)
    with pytest.raises(SeqbenchError, match="ml-100k could not be fetched") as caught:
        prepare(spec, home=home, name="variant", offline=True)
    assert "seqbench prepare ml-100k --raw PATH" in (caught.value.hint or "")
    first = prepare(spec, home=home)
    variant = prepare(spec, home=home, name="variant", offline=True)
    assert (variant.name, variant.fingerprint) == ("variant", first.fingerprint)
    assert server.requests == ["/a.zip"]


def test_a_category_of_a_family(home: Path, tmp_path: Path, rows: list[datakit.Row]) -> None:
    path = tmp_path / "Software.csv"
    path.write_bytes(datakit.WRITERS["amazon-2018"].write(rows))
    prepared = prepare("amazon-2018:Software", home=home, raw=path, min_user=1, min_item=1)
    assert prepared.name == "amazon-2018:Software"
    assert open_prepared("amazon-2018:Software", home).fingerprint == prepared.fingerprint
    assert entries(home) == ["amazon-2018@Software"]
    (prepared.directory / "meta.json").unlink()
    with pytest.raises(SeqbenchError) as caught:
        open_prepared("amazon-2018:Software", home)
    assert "seqbench prepare amazon-2018:Software --force" in (caught.value.hint or "")


def test_options_of_several_are_checked_before_anything_is_fetched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "fetch_all", lambda *args, **options: pytest.fail("fetched"))
    with pytest.raises(UsageError, match="gowalla has no ratings"):
        next(prepare_all(["ml-100k", "gowalla"], home=home, min_rating=4))


def test_one_that_fails_does_not_keep_the_others_from_being_prepared(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = paths.downloads(home) / "yelp" / "Yelp-JSON.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK, but no archive")
    ready = prepare_all(["yelp", "xlong", "synthetic"], home=home)
    assert next(ready).name == "synthetic"
    with pytest.raises(SeqbenchError, match=r"Yelp-JSON\.zip is truncated or damaged"):
        next(ready)
    assert "xlong has to be fetched by hand" in capsys.readouterr().err


def test_several_are_prepared_in_turn(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready = prepare_all(["yelp", "synthetic"], home=home)
    assert next(ready).name == "synthetic"
    with pytest.raises(SeqbenchError, match="yelp has to be fetched by hand"):
        next(ready)
