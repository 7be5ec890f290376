"""Files of the user's: every format gives the same data set, and ready-made sequences stay as they are."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datakit
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqbench.columns import ITEM, TIMESTAMP, USER
from seqbench.data.parsers import delimited, rows
from seqbench.data.prepare import prepare
from seqbench.data.prepared import PreparedDataset, open_prepared
from seqbench.data.resolve import resolve
from seqbench.data.sequences import split_sequences
from seqbench.errors import SeqbenchError, UsageError
from tests.kit import Bench

PROCESSED = datakit.SHARED / "processed"

READY_MADE = [path for path in sorted(PROCESSED.glob("*/*.parquet")) if ".items" not in path.name]

Frame = pd.DataFrame


@pytest.fixture
def frame(rows: list[datakit.Row]) -> Frame:
    frame = pd.DataFrame(rows, columns=["u", "i", "stars", "t"]).astype({"u": int, "i": int})
    return frame


def prepared(path: Path, columns: dict[str, str] | None = None, **filters: Any) -> PreparedDataset:
    return prepare("mine", raw=path, home=path.parent / "home", columns=columns, force=True, **filters)


def by_hand(frame: Frame) -> Frame:
    """In order of user and time, ties as in the file, with ids from 1 in the order of the raw ones."""
    ids = frame[["u", "i"]].rank(method="dense").astype(int)
    return frame.assign(u=ids.u, i=ids.i).sort_values(["u", "t"], kind="stable")


def same(ready: PreparedDataset, expected: Frame) -> None:
    log = ready.load()
    assert log[USER].tolist() == expected.u.tolist()
    assert log[ITEM].tolist() == expected.i.tolist()
    assert log[TIMESTAMP].tolist() == expected.t.tolist()


def csv(frame: Frame, path: Path, **options: Any) -> None:
    frame.to_csv(path, index=False, **options)


def inter(frame: Frame, path: Path) -> None:
    frame.to_csv(
        path, index=False, sep="\t", header=["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    )


NAMED = {"user": "u", "item": "i", "time": "t", "rating": "stars"}

FORMATS: dict[str, tuple[str, Callable[[Frame, Path], Any], dict[str, str]]] = {
    "csv": ("x.csv", csv, NAMED),
    "csv.gz": ("x.csv.gz", csv, NAMED),
    "tsv": ("x.tsv", lambda f, p: csv(f, p, sep="\t"), NAMED),
    "semicolons": ("x.csv", lambda f, p: csv(f, p, sep=";"), NAMED),
    "quoted": ("x.csv", lambda f, p: csv(f, p, quoting=1), NAMED),
    "Windows": ("x.csv", lambda f, p: csv(f, p, lineterminator="\r\n", encoding="utf-8-sig"), NAMED),
    "no header": (
        "x.csv",
        lambda f, p: csv(f, p, header=False),
        {"user": "1", "item": "2", "time": "4", "rating": "3"},
    ),
    "colons": (
        "x.dat",
        lambda f, p: p.write_text("".join("::".join(map(str, row)) + "\n" for row in f.itertuples(index=False))),
        {"user": "1", "item": "2", "time": "4", "rating": "3"},
    ),
    "floats": ("x.csv", lambda f, p: csv(f.assign(t=f.t + 0.0), p), NAMED),
    "dates": ("x.csv", lambda f, p: csv(f.assign(t=pd.to_datetime(f.t, unit="s")), p), NAMED),
    "dates in UTC": (
        "x.csv",
        lambda f, p: csv(f.assign(t=pd.to_datetime(f.t, unit="s").dt.strftime("%Y-%m-%dT%H:%M:%SZ")), p),
        NAMED,
    ),
    "JSON": ("x.jsonl", lambda f, p: f.to_json(p, orient="records", lines=True), NAMED),
    "JSON, gzipped": ("x.json.gz", lambda f, p: f.to_json(p, orient="records", lines=True), NAMED),
    "Parquet": ("x.parquet", lambda f, p: f.to_parquet(p), NAMED),
    "Parquet of text": ("x.parquet", lambda f, p: f.astype({"u": str, "i": str}).to_parquet(p), NAMED),
    "Parquet of floats": ("x.parquet", lambda f, p: f.astype({"u": float, "t": float}).to_parquet(p), NAMED),
    "Parquet of categories": (
        "x.parquet",
        lambda f, p: f.astype({"u": str, "i": str}).astype({"u": "category", "i": "category"}).to_parquet(p),
        NAMED,
    ),
    "inter": ("x.inter", inter, {}),
    "recognised": (
        "x.csv",
        lambda f, p: csv(f.set_axis(["userId", "Item_ID", "Rating", "Timestamp"], axis=1), p),
        {},
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(frame: Frame, tmp_path: Path, kind: str) -> None:
    name, write, columns = FORMATS[kind]
    write(frame, tmp_path / name)
    ready = prepared(tmp_path / name, columns)
    same(ready, by_hand(frame))
    assert ready.meta["timestamp_unit"] == "seconds"
    assert ready.splits == ["leave-one-out", "temporal"]
    assert ready.meta["malformed"] == []
    loved = frame[frame.stars >= 4]
    same(prepared(tmp_path / name, columns, min_rating=4), by_hand(loved))


def test_times_of_parquet(frame: Frame, tmp_path: Path) -> None:
    frame.assign(t=pd.to_datetime(frame.t * 1000 + 7, unit="ms")).to_parquet(tmp_path / "x.parquet")
    ready = prepared(tmp_path / "x.parquet", NAMED)
    same(ready, by_hand(frame.assign(t=frame.t * 1000 + 7)))
    assert ready.meta["timestamp_unit"] == "milliseconds"


def iso(frame: Frame) -> Frame:
    return frame.assign(t=pd.to_datetime(frame.t, unit="s").dt.round("us").astype(str))


FRACTIONS: dict[str, tuple[str, Callable[[Frame, Path], Any]]] = {
    "decimal": ("x.csv", csv),
    "dates": ("x.csv", lambda f, p: csv(iso(f), p)),
    "JSON": ("x.jsonl", lambda f, p: f.to_json(p, orient="records", lines=True, double_precision=6)),
    "JSON of dates": ("x.jsonl", lambda f, p: iso(f).to_json(p, orient="records", lines=True)),
    "Parquet of floats": ("x.parquet", lambda f, p: f.to_parquet(p)),
    "Parquet of dates": ("x.parquet", lambda f, p: iso(f).to_parquet(p)),
    "Parquet of times": (
        "x.parquet",
        lambda f, p: f.assign(t=pd.to_datetime((f.t * 1e6).round().astype(int), unit="us")).to_parquet(p),
    ),
}


@pytest.mark.parametrize("malformed", [False, True])
@pytest.mark.parametrize("kind", FRACTIONS)
def test_fractions_of_a_second_order_what_happens_in_it(
    frame: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, malformed: bool
) -> None:
    name, write = FRACTIONS[kind]
    monkeypatch.setattr(delimited, "BLOCK", 2000)  # blocks without fractions come first
    micros = frame.t * 1_000_000 + (frame.index % 1000 * 1001)[::-1] * (frame.index > len(frame) // 2)
    bad = 1 if malformed and not kind.startswith("Parquet") else 0
    if bad:
        monkeypatch.setattr(rows, "MALFORMED_LIMIT", 0.1)
    write(frame.assign(t=micros / 1e6), tmp_path / name)
    if bad:
        with (tmp_path / name).open("a") as file:
            file.write("nonsense\n")
    ready = prepared(tmp_path / name, NAMED)
    assert ready.meta["timestamp_unit"] == "microseconds"
    same(ready, by_hand(frame.assign(t=micros)))


def test_fractions_of_small_and_of_large_times(tmp_path: Path) -> None:
    for times, unit, expected in (
        (("0.9", "0.1", "0.5"), "microseconds", [100_000, 500_000, 900_000]),
        (
            ("1700000000001.5", "1700000000001.25"),
            "nanoseconds",
            [1_700_000_000_001_250_000, 1_700_000_000_001_500_000],
        ),
        (
            ("1700000000000000.5", "1700000000000000"),
            "nanoseconds",
            [1_700_000_000_000_000_000, 1_700_000_000_000_000_500],
        ),
        (
            ("1700000000.123456789", "1700000000.123456788"),
            "nanoseconds",
            [1_700_000_000_123_456_788, 1_700_000_000_123_456_789],
        ),
        # One late time leaves less room for fractions, not none.
        (
            ("1300000000.9", "1300000000.1", "9400000000000"),
            "milliseconds",
            [1_300_000_000_100, 1_300_000_000_900, 94 * 10**14],
        ),
    ):
        text = "".join(f"1,{number},{time}\n" for number, time in enumerate(times))
        (tmp_path / "x.csv").write_text("user,item,time\n" + text)
        ready = prepared(tmp_path / "x.csv")
        assert (ready.load()[TIMESTAMP].tolist(), ready.meta["timestamp_unit"]) == (expected, unit)


def test_without_time_the_file_is_the_order(frame: Frame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(frame.drop(columns=["t", "stars"]), tmp_path / "x.csv")
    ready = prepared(tmp_path / "x.csv", {"user": "u", "item": "i"})
    same(ready, by_hand(frame.assign(t=np.arange(len(frame)))))
    assert "has no time: the order of its rows is the order of events" in " ".join(capsys.readouterr().err.split())
    assert ready.splits == ["leave-one-out"]
    with pytest.raises(UsageError, match="mine cannot be split by --split temporal") as caught:
        ready.check_split("temporal")
    assert "--split leave-one-out" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["1 7 8 9\n2 8\n3 9 7\n", "1 7\n1 8\n2 8\n3 9\n1 9\n3 7\n"])
def test_lines_of_sequences(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    log = prepared(tmp_path / "x.txt").load()
    assert log[USER].tolist() == [1, 1, 1, 2, 3, 3]
    assert log[ITEM].tolist() == [1, 2, 3, 2, 3, 1]


def test_lines_of_sequences_are_said_to_be_read_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text("1 7 881250949\n2 8\n")  # an item may be any number
    assert prepared(tmp_path / "x.txt").interactions == 3
    assert "is read as lines 'user item item …'" in capsys.readouterr().err


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("wanted", [["u", "i", "t"], ["u", "i", "stars", "t"]])
def test_rows_with_a_time_are_not_taken_for_sequences(
    frame: Frame, tmp_path: Path, separator: str, wanted: list[str]
) -> None:
    csv(frame[wanted], tmp_path / "x.txt", header=False, sep=separator)
    with pytest.raises(UsageError, match="its lines end with a time") as caught:
        prepared(tmp_path / "x.txt")
    columns = f"user=1,item=2,time={len(wanted)}"
    assert f"--columns {columns}" in (caught.value.hint or "")
    same(prepared(tmp_path / "x.txt", dict(pair.split("=") for pair in columns.split(","))), by_hand(frame))


def test_positions_and_split_are_honoured(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {
                "user": ["a", "b", "a", "a", "a", "b", "a"],
                "item": ["v", "v", "z", "y", "x", "w", "w"],
                "position": [0, 0, 3, 2, 1, 1, 4],
                "split": ["train", "train", "valid", "train", "train", "train", "test"],
            }
        ),
        tmp_path / "x.parquet",
    )
    ready = prepared(tmp_path / "x.parquet")
    assert ready.splits == ["given", "leave-one-out"]
    log = ready.load()
    assert log[USER].tolist() == [1, 1, 1, 1, 1, 2, 2]
    assert log[ITEM].tolist() == [1, 3, 4, 5, 2, 1, 2]
    sequences = ready.split("given")
    assert sequences.train_stops.tolist() == [3, 7]
    assert sequences.valid_positions.tolist() == [3, -1]
    assert sequences.test_positions.tolist() == [4, -1]
    assert open_prepared("mine", tmp_path / "home").fingerprint == ready.fingerprint


def test_split_without_an_order(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item,time,split\n1,1,1,train\n1,2,2,test\n1,3,3,train\n1,4,4,test\n")
    with pytest.raises(SeqbenchError, match="user 1 has a row marked train after one marked test"):
        prepared(tmp_path / "x.csv")


def test_unknown_parts_of_a_split(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item,time,split\n1,1,1,train\n1,2,2,holdout\n")
    with pytest.raises(SeqbenchError, match=r"split is not train, valid or test: 1 \(line 3\)"):
        prepared(tmp_path / "x.csv")


def test_data_without_a_split_of_its_own(frame: Frame, tmp_path: Path) -> None:
    csv(frame, tmp_path / "x.csv")
    ready = prepared(tmp_path / "x.csv", NAMED)
    log = ready.load()
    with pytest.raises(UsageError, match="has no split of its own"):
        split_sequences(log[USER], log[ITEM], log[TIMESTAMP], split="given")


@pytest.mark.parametrize(
    ("name", "text", "columns", "words"),
    [
        ("x.csv", "a,b,c\n1,2,3\n", {}, "no column is recognised as the user"),
        ("x.csv", "a,b,c\n1,2,3\n", {"user": "x"}, r"has no column 'x' \(it has a, b, c\)"),
        ("x.csv", "user,session,item\n1,2,3\n", {}, "which column is the user, user or session"),
        ("x.csv", "user,item,item\n1,2,3\n", {"item": "item"}, "two columns have the same name"),
        ("x.csv", "", {}, "is empty"),
        ("x.csv", "user,item\n", {}, "is empty"),
        ("x.csv", "user,item\n1\n", {}, r"wrong number of fields: 1 \(line 2\)"),
        ("x.csv", 'user,item\n1,"2\n3,4\n', {}, "a quotation mark after line 1 is never closed"),
        ("x.csv", "user,item,time\n1,2,soon\n", {}, "timestamp is not a date"),
        ("x.csv", "user,item,time\n1,2,2001-13-01\n", {}, "timestamp is not a date"),
        ("x.jsonl", "[1, 2]\n", {}, "its first line is no JSON object"),
        ("x.jsonl", '{"user": 1, "item": 2}\nnonsense\n', {}, r"not JSON: 1 \(line 2\)"),
        ("x.jsonl", '{"user": 1, "item": 2}\n{"user": 1}\n', {}, r"empty item id: 1 \(line 2\)"),
        ("x.parquet", "PAR1", {}, "cannot be read as Parquet"),
        ("x.csv", "user,item\r1,2\r", {}, "its first lines cannot be read"),
        ("x.xlsx", "PK", {}, "cannot be told from its name"),
        ("x.inter", "user_id:token\n1\n", {}, "no column is recognised as the item"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, name: str, text: str, columns: dict[str, str], words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SeqbenchError, match=words):
        prepared(tmp_path / name, columns)
    assert not (tmp_path / "home" / "prepared" / "mine").exists()


def test_parquet_whose_texts_are_not_utf8(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"b\xb9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"user": ["1", "2"], "item": texts, "time": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(SeqbenchError, match=r"x.parquet cannot be read as Parquet: .*[Ii]nvalid"):
        prepared(tmp_path / "x.parquet")


def test_names_that_are_taken(tmp_path: Path) -> None:
    for name in ("amazon-2018", "../up", "a b", ".x", ""):
        with pytest.raises(UsageError, match="--name"):
            resolve(name, raw=tmp_path / "x.csv")


def test_missing_values_are_counted(tmp_path: Path) -> None:
    good = {"user": [1] * 2000, "item": list(range(2000)), "time": list(range(2000))}
    bad = {"user": [None, 1], "item": [1, None], "time": [1, 1]}
    pd.DataFrame({key: good[key] + bad[key] for key in good}).to_parquet(tmp_path / "x.parquet")
    ready = prepared(tmp_path / "x.parquet")
    assert ready.interactions == 2000
    assert {entry["kind"]: entry["lines"] for entry in ready.meta["malformed"]} == {
        "empty user id": [2001],
        "empty item id": [2002],
    }


def test_text_with_line_feeds_in_quotes(tmp_path: Path) -> None:
    lines = [f'{n % 7},{n},"a, ""quoted""\nremark",{n}' for n in range(500)]
    (tmp_path / "x.csv").write_text("user,item,remark,time\n" + "\n".join(lines) + "\n")
    assert prepared(tmp_path / "x.csv").interactions == 500


def test_a_quotation_mark_that_is_never_closed_is_found_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    count = delimited._count
    monkeypatch.setattr(delimited, "BLOCK", 1000)
    monkeypatch.setattr(delimited, "_count", lambda block, byte: looked_at.append(len(block)) or count(block, byte))
    text = "user,item,remark\n" + '1,2,5" screen\n' + "1,2,x\n" * 20_000
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(SeqbenchError, match="a quotation mark after line 1 is never closed"):
        prepared(tmp_path / "x.csv")
    assert sum(looked_at) < 2 * len(text)


def test_numbers_and_words_as_ids(tmp_path: Path) -> None:
    entries = [{"user": n, "item": f"i{n}"} for n in range(5)]
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    ready = prepared(tmp_path / "x.jsonl.gz")
    assert pq.read_table(ready.directory / "users.parquet").column("raw_id").to_pylist() == ["0", "1", "2", "3", "4"]


@pytest.mark.skipif(not PROCESSED.is_dir(), reason="the published sequences may not be redistributed")
@pytest.mark.parametrize("path", READY_MADE)
def test_published_sequences_stay_as_they_are(path: Path, tmp_path: Path) -> None:
    ready = prepare("published", raw=path, home=tmp_path)
    table = pq.read_table(path)  # its ids are dense, its rows sorted
    log = ready.load()
    np.testing.assert_array_equal(log[USER], table.column("user_id"))
    np.testing.assert_array_equal(log[ITEM], table.column("item_id"))
    sequences = ready.split()
    split = np.array(table.column("split").to_pylist())
    for part, positions in (("valid", sequences.valid_positions), ("test", sequences.test_positions)):
        np.testing.assert_array_equal(positions[positions >= 0], np.flatnonzero(split == part))
    assert int((sequences.train_stops - sequences.offsets[:-1]).sum()) == int((split == "train").sum())


def test_the_commands(frame: Frame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path / "home", tmp_path / "results", capsys)
    part = frame.sort_values(["u", "t"], kind="stable").assign(split="train")
    part.loc[~part.u.duplicated(keep="last"), "split"] = "test"
    part.loc[part[part.split == "train"].groupby("u").tail(1).index, "split"] = "valid"
    csv(part, tmp_path / "my.csv")
    words = ("prepare", "--raw", tmp_path / "my.csv", "--columns", "user=u,item=i,time=t", "--name", "mine")
    outcome = bench.call(*words)
    assert outcome.code == 0
    assert "Columns: user is u, item is i, time is t, split is split" in outcome.out
    assert "Split: as the file says" in outcome.out
    assert "is already prepared" in bench.call(*words).words
    assert "mine" in bench.call("list", "datasets").out
    run = ("run", "--datasets", "mine", "--models", "popularity", "--dry-run")
    assert bench.call(*run).code == 0
    assert bench.call(*run, "--split", "leave-one-out").code == 0
    for wrong, said in (
        (words[:-2], "give the NAME of a data set, or --raw FILE and --name NAME"),
        (("prepare", "ml-100k", *words[1:]), "--columns goes with a file of yours"),
        ((*words[:4], "user", *words[5:]), "'user' is not ROLE=COLUMN"),
        ((*words[:4], "buyer=u", *words[5:]), "--columns knows no 'buyer'"),
        (("prepare", "ml-1m", "ml-100k", "--name", "x"), "--name goes with one data set at a time"),
    ):
        outcome = bench.call(*wrong)
        assert outcome.code == 2
        assert said in outcome.words
