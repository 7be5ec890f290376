"""Files as people have them: what is plainly meant is read, the rest is asked for and not guessed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqbench.columns import ITEM, TIMESTAMP, USER
from seqbench.data.parsers import rows, times
from seqbench.data.prepare import prepare
from seqbench.data.prepared import PreparedDataset
from seqbench.data.resolve import resolve
from seqbench.errors import SeqbenchError, UsageError
from tests.kit import Bench

CASES = Path(__file__).parent / "cases"


def read(path: Path, home: Path, **columns: str) -> PreparedDataset:
    return prepare("t", raw=path, home=home / "home", columns=columns, force=True)


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def sequences(prepared: PreparedDataset) -> dict[str, list[str]]:
    """User → items in their order, by their raw ids."""
    log = prepared.load()
    found: dict[str, list[str]] = {}
    for user, item in zip(log[USER].tolist(), log[ITEM].tolist(), strict=True):
        found.setdefault(log.users[user - 1].as_py(), []).append(log.items[item - 1].as_py())
    return found


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


# Case → file, --columns, what is read, and what is said.
READ: dict[str, tuple[str, dict[str, str], dict[str, list[str]], str]] = {
    "blank-last-line": ("x.csv", {}, {"u": ["a", "b", "c"]}, ""),
    "common-dates": ("dataset_TSMC2014_NYC.txt", {"user": "1", "item": "2", "time": "4"}, {"470": ["v1", "v2"]}, ""),
    "date-over-ms": ("log.csv", {"item": "video_id"}, {"0": ["2", "3", "1"]}, "its time is time_ms, and not date"),
    "datetime-before-1970": ("x.parquet", {}, {"u": ["a", "b", "c"]}, ""),
    "header-as-row": (
        "x.csv",
        {"user": "1", "item": "2"},
        {"1": ["0345"], "2": ["0155"]},
        "its first line is read as a header: User-ID, ISBN, Book-Rating",
    ),
    "ids-with-spaces": ("x.csv", {}, {"1": ["11", "10", "10"]}, ""),
    "mixed-seconds-ms": ("x.csv", {}, {"u": ["z", "b", "a"]}, "times are in different units by their size (2 like sec"),
    "ns-lost": ("x.parquet", {}, {"u": ["b", "a", "c"]}, ""),
    "ns-timestamps": ("x.csv", {}, {"u": ["a", "c", "b"]}, ""),
    "numbers-as-text-parquet": ("x.parquet", {}, {"u": ["a", "c", "b"]}, ""),
    "position-over-time": (
        "log.csv",
        {"user": "user_id", "item": "item_id", "time": "timestamp"},
        {"u": ["a", "b", "c", "d"]},
        "its column position is not read, as --columns names the time",
    ),
    "quoted-tsv": ("x.tsv", {}, {"u1": ["a", "b"]}, ""),
    "semicolon-decimal-comma": (
        "x.csv",
        {"user": "1", "item": "2"},
        {"u1": ["a", "b"], "u2": ["a"]},
        "its column 4 looks like a time; --columns time=4",
    ),
}
ASKED = {
    "inter-item-list": ("x.inter", "one interaction with item_id, or the history in item_id_list", "item=item_id"),
    "json-first-without-time": ("x.jsonl", r"no timestamp: 1 \(line 1\)", "Repair those lines"),
    "nan-id-parquet": ("x.parquet", "empty user id: 2", "Repair those lines"),
    "position-over-time": (
        "log.csv",
        "timestamp and position order the rows differently: user u has a, b, c, d by",
        "time=",
    ),
    "txt-ratings-as-items": ("ratings.txt", "each of its lines has 3 numbers", "user=1,item=2,rating=3; or .*item=2+"),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_plainly_meant_is_read(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, columns, expected, words = READ[case]
    assert sequences(read(CASES / case / name, tmp_path, **columns)) == expected
    assert words in said(capsys)


@pytest.mark.parametrize("case", ASKED)
def test_what_may_be_meant_otherwise_is_asked(case: str, tmp_path: Path) -> None:
    name, words, hint = ASKED[case]
    with pytest.raises(SeqbenchError, match=words) as caught:
        read(CASES / case / name, tmp_path)
    assert hint.split(".*")[0] in (caught.value.hint or "")


def test_every_case_is_tested() -> None:
    assert {path.name for path in CASES.iterdir()} == {*READ, *ASKED, "amazon-header-swapped"}


def test_amazon_with_a_header_of_another_order(tmp_path: Path) -> None:
    found = prepare(
        "amazon-2018:All_Beauty", raw=CASES / "amazon-header-swapped", home=tmp_path, min_user=1, min_item=1
    )
    assert sequences(found) == {"A1V6B6TNIC10QE": ["014789302X", "0143026860"]}


def test_a_first_time_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, none in (("x.csv", ""), ("y.csv", "NaT"), ("z.csv", "NULL")):
        lines = [f"u,b{n},2020-01-01 00:{n % 60:02}:00" for n in range(2000)]
        found = read(written(tmp_path, name, "\n".join(["user,item,time", f"u,a,{none}", *lines])), tmp_path)
        assert found.interactions == 2000
        assert found.meta["malformed"] == [{"kind": "no timestamp", "rows": 1, "lines": [2]}]


MOMENTS = pd.to_datetime([1_300_000_000 + 40_000 * n for n in range(60)], unit="s")

# Ways to write them, and whether they keep the time of day.
DATES: dict[str, Callable[[pd.Timestamp], str]] = {
    "Foursquare, Goodreads": lambda t: t.strftime("%a %b %d %H:%M:%S +0000 %Y"),
    "another zone": lambda t: (t + pd.Timedelta(hours=-7)).strftime("%a %b %d %H:%M:%S -0700 %Y"),
    "MIND": lambda t: f"{t.month}/{t.day}/{t.year} {t.hour % 12 or 12}:{t:%M:%S} {t:%p}",
    "Online Retail": lambda t: f"{t.month}/{t.day}/{t.year} {t.hour}:{t:%M:%S}",
    "days first": lambda t: f"{t.day}.{t.month}.{t.year} {t:%H:%M:%S}",
    "BigQuery": lambda t: t.strftime("%Y-%m-%d %H:%M:%S UTC"),
    "slashes": lambda t: t.strftime("%Y/%m/%d %H:%M:%S"),
    "an offset": lambda t: (t + pd.Timedelta(hours=5.5)).strftime("%Y-%m-%dT%H:%M:%S+05:30"),
    "a mail": lambda t: t.strftime("%a, %d %b %Y %H:%M:%S GMT"),
    "words": lambda t: t.strftime("%B %d, %Y %I:%M:%S %p"),
    "compact": lambda t: t.strftime("%Y%m%d%H%M%S"),
}


@pytest.mark.parametrize(
    ("way", "name"),
    [
        *zip(DATES, ["x.csv", "x.jsonl", "x.parquet", "x.tsv"] * 3, strict=False),
        *(("Foursquare, Goodreads", name) for name in ("x.jsonl", "x.parquet", "x.tsv")),
    ],
)
def test_dates_that_public_data_sets_use(way: str, name: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": 1, "item": range(60), "time": [DATES[way](moment) for moment in MOMENTS]})[::-1]
    if name.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    elif name.endswith("jsonl"):
        frame.to_json(tmp_path / name, orient="records", lines=True)
    else:
        frame.to_csv(tmp_path / name, index=False, sep="\t" if name.endswith("tsv") else ",", quoting=1)
    log = read(tmp_path / name, tmp_path).load()
    assert log[TIMESTAMP].tolist() == [moment.value // 10**9 for moment in MOMENTS]


def test_days_and_months_that_only_late_rows_tell_apart(tmp_path: Path) -> None:
    early = "\n".join(f"u,{n},{1 + n % 12}/{1 + n % 11}/2010 8:{n % 60:02}" for n in range(2000))
    path = written(tmp_path, "x.csv", f"user,item,time\n{early}\nu,last,12/13/2010 8:26\n")
    log = read(path, tmp_path).load()
    assert log[TIMESTAMP].max() == pd.Timestamp("2010-12-13 08:26").value // 10**9
    path = written(tmp_path, "x.csv", f"user,item,time\n{early}\n")
    with pytest.raises(UsageError, match="its dates can be read in two ways") as caught:
        read(path, tmp_path)
    assert "pandas.to_datetime" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["1/2/10", "yesterday", "2010-02-30", "12:30", "2010-13-01"])
def test_what_is_no_date_is_refused_with_those_that_are_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(SeqbenchError, match="timestamp is not a date") as caught:
        read(written(tmp_path, "x.csv", f"user,item,time\nu,a,{text}\n"), tmp_path)
    assert "Times are read as numbers" in (caught.value.hint or "")


def test_a_time_to_the_last_digit(tmp_path: Path) -> None:
    moments = [1_609_459_200_123_456_789, 1_609_459_200_123_456_788, 1_609_459_200_123_456_790]
    iso = [f"2021-01-01T00:00:00.{moment % 10**9:09}Z" for moment in moments]
    seconds = [f"{moment // 10**9}.{moment % 10**9:09}" for moment in moments]
    table = {"user": ["u"] * 3, "item": ["b", "a", "c"]}
    for name, column in (("whole", list(map(str, moments))), ("iso", iso), ("seconds", seconds)):
        text = "user,item,time\n" + "".join(f"u,{i},{t}\n" for i, t in zip("bac", column, strict=True))
        lines = [
            f'{{"user": "u", "item": "{i}", "time": {t if name != "iso" else json.dumps(t)}}}\n'
            for i, t in zip("bac", column, strict=True)
        ]
        pq.write_table(pa.table({**table, "time": column}), tmp_path / f"{name}.parquet")
        for path in (
            written(tmp_path, f"{name}.csv", text),
            written(tmp_path, f"{name}.jsonl", "".join(lines)),
            tmp_path / f"{name}.parquet",
        ):
            found = read(path, tmp_path)
            assert (found.load()[TIMESTAMP].tolist(), found.meta["timestamp_unit"]) == (
                sorted(moments),
                "nanoseconds",
            ), path
    for kind in (pa.int64(), pa.timestamp("ns"), pa.timestamp("ns", "Europe/Berlin")):
        pq.write_table(pa.table({**table, "time": pa.array(moments).cast(kind)}), tmp_path / "x.parquet")
        assert read(tmp_path / "x.parquet", tmp_path).load()[TIMESTAMP].tolist() == sorted(moments)


def test_times_before_1970(tmp_path: Path) -> None:
    for name, column in (
        ("numbers", ["-5", "-7", "3"]),
        ("dates", ["1969-12-31T23:59:55", "1969-12-31T23:59:53", "1970-01-01T00:00:03"]),
    ):
        text = "user,item,time\n" + "".join(f"u,{i},{t}\n" for i, t in zip("bac", column, strict=True))
        assert read(written(tmp_path, f"{name}.csv", text), tmp_path).load()[TIMESTAMP].tolist() == [-7, -5, 3]


TIMES = {
    # Columns in order → the time, a note, or an error.
    "event_time": "event_time",
    "created_at": "created_at",
    "timestamp,release_date": "timestamp",
    "date,event_time": "event_time",
    "datetime,unix_ts": "datetime",
    "timestamp,datetime": "timestamp",
    "release_date": "is its column release_date the time of the interactions",
    "timestamp,date_far": "timestamp",
    "time_ms": "time_ms",
}


@pytest.mark.parametrize("names", TIMES)
def test_a_column_that_only_looks_like_a_time_is_never_taken_silently(
    names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def value(name: str, n: int) -> str:
        moment = pd.Timestamp(1_300_000_000 + n, unit="s")
        if "release" in name or "far" in name:
            return f"19{90 + n}-01-01"
        if "ms" in name:
            return str(moment.value // 10**6)
        if name in ("timestamp", "unix_ts"):
            return str(moment.value // 10**9)
        return moment.strftime("%Y-%m-%d" if name == "date" else "%Y-%m-%d %H:%M:%S")

    columns = names.split(",")
    text = "\n".join(",".join(["u", f"i{n}", *(value(name, n) for name in columns)]) for n in range(5, 0, -1))
    path = written(tmp_path, "x.csv", f"user,item,{names}\n{text}\n")
    expected = TIMES[names]
    if expected not in columns:
        with pytest.raises(UsageError, match=expected) as caught:
            read(path, tmp_path)
        assert f"--columns time={columns[0]}, or --columns time= for none" in (caught.value.hint or "")
        assert sequences(read(path, tmp_path, time=""))["u"] == ["i5", "i4", "i3", "i2", "i1"]
        return
    found = read(path, tmp_path)
    assert found.meta["source"]["columns"]["time"] == expected
    assert sequences(found)["u"] == ["i1", "i2", "i3", "i4", "i5"]
    silent = (
        (len(columns) == 1 and expected in ("timestamp", "time", "date"))
        or "release_date" in names
        or "date_far" in names
    )
    assert (f"its time is {expected}" in said(capsys)) != silent


def test_two_times_that_disagree_are_both_shown(tmp_path: Path) -> None:
    path = written(tmp_path, "x.csv", "user,item,time,date\nu,a,1300000000,2020-01-01\nu,b,1300000001,2019-01-01\n")
    with pytest.raises(UsageError, match=r"time \(1300000000 in the first row\) or date \(2020-01-01 in") as caught:
        read(path, tmp_path)
    assert "--columns time=NAME" in (caught.value.hint or "")
    path = written(tmp_path, "x.csv", "user,item,date,time\nu,a,2020-01-01,10:30\nu,b,2020-01-01,09:30\n")
    with pytest.raises(UsageError, match="the day and the time of day are in two columns, date and time"):
        read(path, tmp_path)


def test_positions_and_times(tmp_path: Path) -> None:
    rows_ = [("a", 3, 10), ("b", 1, 20), ("c", 2, 30)]
    path = written(tmp_path, "x.csv", "user,item,pos,time\n" + "".join(f"u,{i},{p},{t}\n" for i, p, t in rows_))
    with pytest.raises(UsageError, match="user u has a, b, c by time, and b, c, a by pos"):
        read(path, tmp_path)
    assert sequences(read(path, tmp_path, time="time"))["u"] == ["a", "b", "c"]
    assert sequences(read(path, tmp_path, time="time", position=""))["u"] == ["a", "b", "c"]
    assert sequences(read(path, tmp_path, position="pos"))["u"] == ["b", "c", "a"]
    agree = written(tmp_path, "y.csv", "user,item,pos,time\nu,b,2,10\nu,a,1,10\nu,c,3,11\n")
    assert sequences(read(agree, tmp_path))["u"] == ["a", "b", "c"]


@pytest.mark.parametrize("blank", ["1 \t", "\u30001\u00a0", "\ufeff\u200b1"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_blanks_around_ids_mean_nothing(blank: str, name: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": ["1", blank, "2"], "item": ["a", "b", "c"], "time": [1, 2, 3]})
    if name.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    elif name.endswith("jsonl"):
        frame.to_json(tmp_path / name, orient="records", lines=True)
    else:
        frame.to_csv(tmp_path / name, index=False)
    assert sequences(read(tmp_path / name, tmp_path)) == {"1": ["a", "b"], "2": ["c"]}


def test_ids_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "MALFORMED_LIMIT", 0.9)
    frame = pd.DataFrame({"user": [1.0, np.nan, 3.0], "item": ["a", None, "c"], "time": [1, 2, 3]})
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_csv(tmp_path / "x.csv", index=False)
    written(
        tmp_path,
        "x.jsonl",
        '{"user":1.0,"item":"a","time":1}\n{"user":NaN,"item":"b","time":2}\n{"user":3,"item":"c","time":3}\n',
    )
    for name in ("x.parquet", "x.csv", "x.jsonl"):
        assert sequences(read(tmp_path / name, tmp_path)) == {"1": ["a"], "3": ["c"]}
    text = "user,item\n" + "".join(f"{user},{n}\n" for n, user in enumerate(["NULL", "1", "NULL", "2"]))
    assert read(written(tmp_path, "y.csv", text), tmp_path).users == 3
    assert "2 rows have the user 'NULL', which may stand for none" in said(capsys)


ROWS = [("u1", "a", "5,5", "1609459200"), ("u1", "b", "4,5", "1609459260"), ("u2", "a", "3,5", "1609459201")]


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("headed", [True, False])
@pytest.mark.parametrize(("ending", "between"), [("csv", ";"), ("tsv", "\t"), ("dat", "|"), ("txt", " ")])
def test_separators_quotes_and_decimal_commas(
    ending: str, headed: bool, between: str, quote: str, tmp_path: Path
) -> None:
    head = [("user", "item", "rating", "timestamp")] if headed else []
    text = "".join(between.join(f"{quote}{value}{quote}" for value in row) + "\n" for row in [*head, *ROWS])
    columns = {} if headed else {"user": "1", "item": "2", "time": "4", "rating": "3"}
    path = written(tmp_path, f"x.{ending}", "\n" + text + "\n \n")
    found = prepare("t", raw=path, home=tmp_path / "home", columns=columns, min_rating=4)
    assert sequences(found) == {"u1": ["a", "b"]}


def test_a_header_that_comes_again_is_no_row(tmp_path: Path) -> None:
    for name, text in (
        ("x.csv", "user,item\nu,a\nuser,item\nu,b\n"),
        ("x.tsv", "user\titem\ttime\nu\ta\t1\nuser\titem\ttime\nu\tb\t2\n"),
        ("x.inter", "user_id:token\titem_id:token\nu\ta\nuser_id:token\titem_id:token\nu\tb\n"),
    ):
        assert sequences(read(written(tmp_path, name, text), tmp_path)) == {"u": ["a", "b"]}


def test_lines_of_a_few_numbers_each(tmp_path: Path) -> None:
    path = written(tmp_path, "x.txt", "1 7 5\n1 8 4\n2 7 3\n")
    assert sequences(read(path, tmp_path, user="1", item="2")) == {"1": ["7", "8"], "2": ["7"]}
    assert sequences(read(path, tmp_path, user="1", item="2+")) == {"1": ["7", "5", "8", "4"], "2": ["7", "3"]}
    with pytest.raises(UsageError, match="its first line is no header") as caught:
        read(written(tmp_path, "y.txt", "1,7,5\n1,8,4\n"), tmp_path)
    assert "--columns user=1,item=2" in (caught.value.hint or "")


def test_lists_of_items_are_said_not_to_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "x.jsonl", '{"user": 1, "items": [1, 2, 3]}\n')
    with pytest.raises(UsageError, match="as the item, and items holds lists of items, which are not read"):
        read(path, tmp_path)
    with pytest.raises(UsageError, match="its column items holds lists of items, which are not read"):
        read(path, tmp_path, item="items")
    pq.write_table(pa.table({"user": [1, 2], "item": [3, 4], "hist": [[1], [2]]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="one interaction with item, or the history in hist"):
        read(tmp_path / "x.parquet", tmp_path)
    assert sequences(read(tmp_path / "x.parquet", tmp_path, item="item")) == {"1": ["3"], "2": ["4"]}
    assert "its column hist is not read" in said(capsys)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(SeqbenchError, match=r"x\.csv is no regular file"):
        read(tmp_path / "x.csv", tmp_path)
    with pytest.raises(SeqbenchError, match="is no regular file"):
        prepare("ml-100k", raw=tmp_path / "x.csv", home=tmp_path)
    (tmp_path / "y.csv").write_text("user,item\n1,2\n", encoding="utf-16")
    with pytest.raises(SeqbenchError, match="is UTF-16"):
        read(tmp_path / "y.csv", tmp_path)


def test_a_parquet_file_of_too_many_equal_rows(tmp_path: Path) -> None:
    table = pa.table({"user": np.zeros(3_000_000, np.int8), "item": np.zeros(3_000_000, np.int8)})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    with pytest.raises(SeqbenchError, match="unpacks to 3,000,000 rows, past the limit"):
        read(tmp_path / "x.parquet", tmp_path)


@pytest.mark.parametrize("name", ["CON", "nul", "Com1", "lpt9.txt"])
def test_names_of_devices(name: str) -> None:
    with pytest.raises(UsageError, match="the name of a device on Windows"):
        resolve("ml-100k", name=name)


def test_forms_of_times_say_how_they_look() -> None:
    for form in (*times.PLAIN, *times.COMPACTS, *times.EITHER):
        whole, _, usable = times.parse(pa.array([form.title]), form)
        assert usable.all(), form
        assert whole[0] in (1_300_000_000, 1_300_000_000 - 40, 1_299_974_400), form


def test_no_name_of_a_file_or_column_commands_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    escape = "\x1b]0;X\x07\x1b[2J"
    path = written(tmp_path, f"x{escape}[red].csv", f"user,item,time{escape},pos\nu{escape},a,5,1\nu{escape},b,4,2\n")
    bench = Bench(tmp_path / "home", tmp_path / "results", capsys)
    outcome = bench.call("prepare", "--raw", path, "--name", "x", "--columns", f"time=time{escape}")
    assert outcome.code == 0
    refused = bench.call("prepare", "--raw", path, "--name", "y", "--columns", "user=none")
    assert refused.code == 2
    for text in (
        outcome.out,
        outcome.err,
        refused.err,
        bench.call("data", "x").out,
        bench.call("list", "datasets", "x").out,
    ):
        assert not set(text) & set("\x1b\x07")
    assert "[red].csv" in outcome.out


def test_the_protocol_of_recbole_wants_the_order_of_recbole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "user,item,time\n" + "".join(f"{n % 9},{n},{1_300_000_000 + n}\n" for n in range(90))
    path = written(tmp_path, "x.csv", text)
    bench = Bench(tmp_path / "home", tmp_path / "results", capsys)
    run = ("run", "--datasets", "x", "--models", "popularity", "--protocol", "recbole", "--dry-run")
    for ties, warned in (("file", True), ("recbole", False)):
        assert bench.call("prepare", "--raw", path, "--name", "x", "--ties", ties).code == 0
        assert ("--ties recbole` makes" in bench.call(*run).words) == warned
