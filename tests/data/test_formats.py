"""Every raw format: generated files say what was written, and the real ones have the counts that they are known by."""

import ast
import contextlib
import dataclasses
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import datakit
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbench.columns import ITEM, RATING, TIMESTAMP, USER
from seqbench.data import archives
from seqbench.data.catalog import Member, get_spec, load_catalog
from seqbench.data.log import Log
from seqbench.data.parsers import FORMATS, Format, delimited, movielens, objects
from seqbench.data.prepare import prepare
from seqbench.errors import SeqbenchError

RAW = datakit.SHARED / "raw"
here = pytest.mark.skipif(not RAW.is_dir(), reason="the real files may not be redistributed")


def parse(name: str, content: bytes, *, ratings: bool = False) -> Log:
    return FORMATS[name].parse(io.BytesIO(content), "x", ratings=ratings)


def rows_of(log: Log) -> list[tuple[str, str, int]]:
    users, items = log.users.to_pylist(), log.items.to_pylist()
    found = zip(*(log[name].tolist() for name in (USER, ITEM, TIMESTAMP)), strict=True)
    return [(users[user], items[item], time) for user, item, time in found]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_generated_here(name: str) -> None:
    assert name in datakit.WRITERS


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("netflix", "sequence-lines", "xlong")])
@pytest.mark.parametrize("marked", [b"90009", b"80008"], ids=["user", "item"])
def test_a_row_that_is_not_utf8_is_rejected_and_no_other(name: str, marked: bytes) -> None:
    rows = [(str(number), str(number % 50), 3, 10**9 + number) for number in range(1500)]
    rows[700] = ("90009", "80008", 3, 10**9)
    content = datakit.WRITERS[name].write(rows)
    assert content.count(marked) == 1
    log = parse(name, content.replace(marked, marked[:-1] + b"\xb9"))
    assert len(log) == 1499
    assert [entry.kind for entry in log.malformed] == ["not UTF-8"]


def test_a_date_that_is_not_utf8_is_rejected(rows: list[datakit.Row]) -> None:
    first, *others = datakit.WRITERS["yelp"].write(rows * 3).split(b"\n")
    log = parse("yelp", b"\n".join([first.replace(b'"date": "1', b'"date": "\xb9'), *others]))
    assert [entry.kind for entry in log.malformed] == ["not UTF-8"]


def test_a_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[datakit.Row]) -> None:
    """One function and one entry are all that a raw format needs."""
    (tmp_path / "toyformat.py").write_text(
        "from seqbench.columns import ITEM, USER\n"
        "from seqbench.data.parsers.rows import Collector\n"
        "import pyarrow as pa\n"
        "def parse(stream, where, *, ratings=False):\n"
        "    collector = Collector(where)\n"
        "    pairs = [line.split('>') for line in stream.read().decode().split()]\n"
        "    collector.add({USER: pa.array(u for u, _ in pairs), ITEM: pa.array(i for _, i in pairs)})\n"
        "    return collector.finish()\n"
    )
    (tmp_path / "u.toy").write_text("a>x a>y b>x a>z")
    monkeypatch.syspath_prepend(tmp_path)
    with FORMATS.added("toy", Format("toyformat:parse", rated=False, timed=False)):
        source = datakit.local_sources()[0]
        source = dataclasses.replace(source, interactions=Member(("u.toy",), "toy"))
        found = prepare(datakit.spec_of(source), home=tmp_path / "home", raw=tmp_path / "u.toy", min_user=1, min_item=1)
        assert found.load()[ITEM].tolist() == [1, 2, 3, 1]
        assert found.meta["timestamp_unit"] == "rows"
        assert found.splits == ["leave-one-out"]


@pytest.mark.parametrize("block", [delimited.BLOCK, 1000])
@pytest.mark.parametrize("name", datakit.WRITERS)
def test_what_was_written_is_read(
    name: str, block: int, rows: list[datakit.Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "BLOCK", block)
    writer = datakit.WRITERS[name]
    found = parse(name, writer.write(rows), ratings=FORMATS[name].rated)
    assert rows_of(found) == writer.read(rows)
    assert found.malformed == ()
    assert (RATING in found) == FORMATS[name].rated
    if FORMATS[name].rated:
        expected = {(user, item): rating for user, item, rating, _ in rows}
        got = zip(rows_of(found), found[RATING].tolist(), strict=True)
        assert all(
            rating == expected[user.removeprefix("A"), item.removeprefix("B")] for (user, item, _), rating in got
        )


@pytest.mark.parametrize("name", datakit.WRITERS)
def test_junk_is_counted_with_its_line(name: str, rows: list[datakit.Row]) -> None:
    writer = datakit.WRITERS[name]
    content = writer.write(rows * 3)
    for junk in (b"\xff\xfejunk", b"{'a': }", b"junk"):
        found = parse(name, content + junk + b"\n")
        assert sum(entry.rows for entry in found.malformed) == 1
        assert found.malformed[0].lines == (content.count(b"\n") + 1,)
        # Without times, the row's number stands for it, and junk has one too.
        columns = 3 if FORMATS[name].timed else 2
        assert [row[:columns] for row in rows_of(found)] == [row[:columns] for row in rows_of(parse(name, content))]


# Four columns between commas, or between tabs: nothing in a row tells these apart.
ALIKE = (
    {"amazon-2014", "amazon-2018", "amazon-2023", "movielens-csv"},
    {"movielens-tab", "movielens-colons", "recbole-inter"},
    *({name} for name in datakit.WRITERS),
)


@pytest.mark.parametrize("name", datakit.WRITERS)
def test_a_file_of_another_kind_is_refused(name: str, rows: list[datakit.Row]) -> None:
    for other, writer in datakit.WRITERS.items():
        content = writer.write(rows)
        if any({other, name} <= alike for alike in ALIKE):
            continue
        with pytest.raises(SeqbenchError, match=r"malformed|header"):
            parse(name, content)


def test_headers_that_copies_add(rows: list[datakit.Row]) -> None:
    plain = datakit.WRITERS["amazon-2014"].write(rows)
    assert rows_of(parse("amazon-2014", b"UserId,ProductId,Rating,Timestamp\n" + plain)) == rows_of(
        parse("amazon-2014", plain)
    )
    headed = datakit.WRITERS["amazon-2023"].write(rows)
    assert rows_of(parse("amazon-2023", headed.partition(b"\n")[2])) == rows_of(parse("amazon-2023", headed))


@pytest.mark.parametrize(
    "name", ["amazon-2014", "amazon-2018", "amazon-2023", "movielens-csv", "movielens-tab", "movielens-colons"]
)
def test_headers_say_which_column_is_which(name: str) -> None:
    between = {"movielens-tab": "\t", "movielens-colons": "::"}.get(name, ",")
    head = between.join(("Timestamp", "Rating", "user_id", "movieId" if "movie" in name else "asin")) + "\n"
    body = "".join(between.join((str(881250949 + n), "4.0", str(n % 7), str(n % 5))) + "\n" for n in range(30))
    found = parse(name, (head + body + "\n" + head + body).encode(), ratings=True)  # joined files, a blank line
    assert rows_of(found)[:2] == [("0", "0", 881250949), ("1", "1", 881250950)]
    assert len(found) == 60
    assert found.malformed == ()
    with pytest.raises(SeqbenchError, match="its header does not say which column is the"):
        parse(name, (head.replace("user_id", "who") + body).encode())


def test_columns_of_amazon_are_told_by_their_ids() -> None:
    rows = b"A1V6B6TNIC10QE,0143026860,1.0,1424304000\nA1V6B6TNIC10QE,B00005N7P0,5.0,1418860800\n"
    for name in ("amazon-2014", "amazon-2018"):
        found = parse(name, rows)
        assert found.users.to_pylist() == ["A1V6B6TNIC10QE"]
        assert (found.notes != ()) == (name == "amazon-2018")


def test_leading_zeros_of_an_asin_stay() -> None:
    content = b"A1,0132793040,5.0,1365811200\nA1,132793040,5.0,1365811200\n"
    assert parse("amazon-2014", content).items.to_pylist() == ["0132793040", "132793040"]


def test_hexadecimal_is_no_number() -> None:
    rows = b"".join(b"A%d,B,5.0,1365811200\n" % n for n in range(1500))
    assert parse("amazon-2014", rows + b"A1,B,5.0,0x10\n").malformed[0].lines == (1501,)


def test_times_of_gowalla_are_in_utc() -> None:
    found = parse("gowalla", b"0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847\n")
    assert found[TIMESTAMP].tolist() == [1287532527]


def test_netflix_films_go_on_in_the_next_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 24)
    found = parse("netflix", b"7:\n1,5,2005-09-06\n2,3,2005-09-07\n3,3,2005-09-08\n8:\n1,1,1999-12-31\n")
    assert [(user, item) for user, item, _ in rows_of(found)] == [("1", "7"), ("2", "7"), ("3", "7"), ("1", "8")]


@pytest.mark.parametrize("line", ["2", "2:::", "7NULL", "2 :"])
def test_a_damaged_film_gives_its_ratings_to_no_other(line: str) -> None:
    lines = ["1:", *(f"{user},3,2005-01-01" for user in range(1, 4001)), line, "1,4,2005-01-02", "2,4,2005-01-02"]
    found = parse("netflix", "\n".join([*lines, "3:", "9,1,2005-01-03"]).encode())
    assert (found.items.to_pylist(), len(found)) == (["1", "3"], 4001)
    assert sum(each.rows for each in found.malformed) == 3
    damaged = "\n".join([*lines[:-3], "5,3", *lines[-2:]])  # a rating that is damaged leaves the film as it is
    assert len(parse("netflix", damaged.encode())) == 4002


@pytest.mark.parametrize(
    "line",
    [
        "{'username': 'a', 'product_id': '1'}{'username': 'b', 'product_id': '2'}",
        "{'a': 1{'b': 2X}",
        "{'a': 1, 'b': 2X",
    ],
)
def test_two_literals_on_a_line_are_none(line: str) -> None:
    with pytest.raises(ValueError):
        objects.literal(line)


def test_a_literal_that_is_absurdly_long_is_not_looked_at() -> None:
    with pytest.raises(ValueError, match="longer than"):
        objects.literal("a" + "[0]" * 1_000_000)


def test_two_objects_of_json_on_a_line_are_none() -> None:
    lines = [json.dumps({"reviewerID": f"A{n}", "asin": "B", "unixReviewTime": n}) for n in range(3000)]
    for bad in ("", "nonsense"):  # read at once, or line by line
        found = parse("amazon-reviews", "\n".join([*lines, lines[0] + lines[1], bad]).encode())
        assert len(found) == 3000
        assert found.malformed[0].lines[0] == 3001


def test_steam_lines_as_they_are_published() -> None:
    lines = [
        r"""{u'username': u'a\'b', u'hours': 0.3, u'text': u"it's {u'username': u'no'}", u'date': u'2017-12-17',"""
        r""" u'product_id': u'725280', u'early_access': False}""",
        r"""{u'username': u'caf\xe9', u'product_id': u'1', u'date': u'2011-01-02', u'found_funny': 1}""",
    ]
    found = parse("steam", "\n".join(lines).encode())
    assert rows_of(found) == [("a'b", "725280", 1513468800), ("café", "1", 1293926400)]


def test_literals_are_never_evaluated(tmp_path: Path) -> None:
    target = tmp_path / "made"
    line = f"{{'username': __import__('pathlib').Path('{target}').touch(), 'product_id': '1', 'date': '2017-01-01'}}\n"
    with pytest.raises(SeqbenchError, match="not a Python literal: 3"):
        parse("steam", line.encode() * 3)
    assert not target.exists()


@pytest.mark.parametrize("line", ["(" * 5000, "[" * 100_000, "{'a':" * 3000, "-" * 50_000 + "1", "9" * 100_000, "\0"])
def test_literals_that_are_too_deep(line: str) -> None:
    with pytest.raises(ValueError):
        objects.literal(line)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=8)
values = st.one_of(texts, st.integers(-9, 10**12), st.booleans(), st.none(), st.floats(0, 9).map(lambda x: round(x, 2)))


@settings(deadline=None)
@given(st.dictionaries(texts, values, max_size=5), st.booleans())
def test_literals_are_read_as_python_reads_them(entry: dict[str, object], old: bool) -> None:
    line = repr(entry)
    if old:  # as Python 2 printed them
        line = line.replace("{'", "{u'").replace(", '", ", u'").replace(": '", ": u'")
        expected = ast.literal_eval(line)
    else:
        expected = entry
    found = objects.literal(line)
    assert {key: str(value) for key, value in found.items()} == {key: str(value) for key, value in expected.items()}


def test_titles() -> None:
    films = "1::Café (1995)::Drama\n2::A: b, c (1996)::Comedy|War\nx\n".encode("iso-8859-1")
    assert movielens.titles_colons(io.BytesIO(films)) == {"1": "Café (1995)", "2": "A: b, c (1996)"}
    films = 'movieId,title,genres\r\n1,"A, ""B"" (1995)",Drama\r\n2,Café,(no genres listed)\r\n'.encode()
    assert movielens.titles_comma(io.BytesIO(films)) == {"1": 'A, "B" (1995)', "2": "Café"}
    goods = b"""{'asin': '0001', 'title': "it's", 'price': 1.5}\n{"parent_asin": "B2", "title": "Two"}\nnothing\n"""
    assert objects.titles(io.BytesIO(goods)) == {"0001": "it's", "B2": "Two"}


Around = Callable[[Path, str, bytes], Path]


def plain(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def gzipped(folder: Path, name: str, content: bytes) -> Path:
    return plain(folder, f"{name}.gz", gzip.compress(content))


def zipped(folder: Path, name: str, content: bytes) -> Path:
    return plain(folder, "x.zip", datakit.archive({"readme": b"", name: content}))


def tarred(folder: Path, name: str, content: bytes, kind: str = "w:gz") -> Path:
    path = folder / "x.tar.gz"
    with tarfile.open(path, kind) as tar:
        for member, data in (("../../evil", b"x"), (f"a/{name}", content)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


AROUND: list[Around] = [plain, gzipped, zipped, tarred]


@pytest.mark.parametrize("number", range(len(load_catalog()) - 1))
def test_every_data_set_is_read_from_whatever_is_around_it(
    number: int, tmp_path: Path, rows: list[datakit.Row]
) -> None:
    name = [name for name, spec in load_catalog().items() if spec.sources][number]
    around = AROUND[number % len(AROUND)]
    spec = get_spec(name)
    member = spec.sources[0].interactions
    writer = datakit.WRITERS[member.format]
    content = writer.write(rows)
    first, *more = member.member
    if more:
        path = plain(tmp_path, "x.zip", datakit.archive({first: content} | dict.fromkeys(more, b"")))
    else:
        path = around(tmp_path, member.basenames[0], content)
    unpublished = dataclasses.replace(spec, expected=None)
    prepared = prepare(unpublished, home=tmp_path / "home", raw=path, min_user=1, min_item=1)
    expected = {(user, item) for user, item, _ in writer.read(rows)}
    assert prepared.interactions == len(expected)
    assert prepared.users == len({user for user, _ in expected})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "home"])


def test_yelp_in_its_tar_in_its_zip(tmp_path: Path, rows: list[datakit.Row]) -> None:
    content = datakit.WRITERS["yelp"].write(rows)
    inner = tarred(tmp_path, "yelp_academic_dataset_review.json", content, "w")
    path = plain(tmp_path, "Yelp-JSON.zip", datakit.archive({"Yelp JSON/yelp_dataset.tar": inner.read_bytes()}))
    files = archives.locate(get_spec("yelp"), path)
    with archives.opened(*files.interactions) as (stream, _):
        assert stream.read() == content


def test_files_that_go_on_in_the_next(tmp_path: Path, rows: list[datakit.Row]) -> None:
    folder = tmp_path / "netflix"
    folder.mkdir()
    lines = datakit.WRITERS["netflix"].write(rows).splitlines(keepends=True)
    breaks = [at for at, line in enumerate(lines) if line.endswith(b":\n")] + [len(lines)]
    cuts = [breaks[len(breaks) * part // 4] for part in range(4)] + [len(lines)]
    for number in range(4):
        part = b"".join(lines[cuts[number] : cuts[number + 1]])
        (folder / f"combined_data_{number + 1}.txt").write_bytes(part.removesuffix(b"\n"))
    files = archives.locate(get_spec("netflix"), folder)
    with archives.opened(*files.interactions) as (stream, _):
        assert stream.read().strip() == b"".join(lines).strip()
    (folder / "combined_data_3.txt").unlink()
    for path in (folder, folder / "combined_data_1.txt", folder / "combined_data_4.txt"):
        with pytest.raises(SeqbenchError, match=r"is not all: combined_data_3\.txt is missing\.") as caught:
            archives.locate(get_spec("netflix"), path)
        assert "Put combined_data_1.txt and combined_data_2.txt and" in (caught.value.hint or "")
    with pytest.raises(SeqbenchError, match="holds no raw file of xlong") as caught:
        archives.locate(get_spec("xlong"), folder)
    assert "train_corpus_total_dual.txt and test_corpus_total_dual.txt" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["gz", "tar.gz"])
def test_bombs(tmp_path: Path, kind: str) -> None:
    bomb = bytes(64 << 20)
    path = gzipped(tmp_path, "u.data", bomb) if kind == "gz" else tarred(tmp_path, "u.data", bomb)
    assert path.stat().st_size < 1 << 20
    with (
        pytest.raises(SeqbenchError, match="unpacks to"),
        archives.opened(*archives.locate(get_spec("ml-100k"), path).interactions) as (stream, _),
    ):
        stream.read()


# Users, items and interactions: of the file, and after each way of filtering with k = 5.
WAYS = {
    "k-core": {"rule": "k-core", "duplicates": "none"},
    "k-core of the first of each pair": {"rule": "k-core", "duplicates": "first"},
    "item-then-user-once": {"rule": "item-then-user-once", "duplicates": "none"},
    "joint-once": {"rule": "joint-once", "duplicates": "none"},
}
COUNTS = """
ml-100k | ml-100k/u.data
943 1682 100000 | 943 1349 99287 | 943 1349 99287 | 943 1349 99287 | 943 1349 99287
ml-1m | ml-1m/ratings.users-1-2999.dat.gz
2999 3615 487650 | 2999 3266 486907 | 2999 3266 486907 | 2999 3266 486907 | 2999 3266 486907
ml-latest-small | ml-latest-small/ml-latest-small.zip
610 9724 100836 | 610 3650 90274 | 610 3650 90274 | 610 3650 90274 | 610 3650 90274
amazon-musical-instruments | amazon-2014/reviews_Musical_Instruments_5.json.gz
1429 900 10261 | 1429 900 10261 | 1429 900 10261 | 1429 900 10261 | 1429 900 10261
amazon-beauty | amazon-2014/ratings_Electronics.head-50698.csv
47141 3529 50698 | 0 0 0 | 0 0 0 | 107 463 831 | 151 520 986
amazon-2018:AMAZON_FASHION | amazon-2018/AMAZON_FASHION_5.json.gz
406 31 3176 | 394 17 3110 | 374 8 2962 | 395 19 3116 | 405 19 3154
amazon-2018:All_Beauty | amazon-2018/All_Beauty_5.json.gz
991 85 5269 | 961 49 5084 | 137 24 686 | 965 53 5113 | 988 53 5189
amazon-2018:Gift_Cards | amazon-2018/Gift_Cards_5.json.gz
458 148 2972 | 456 147 2960 | 453 147 2941 | 456 147 2960 | 458 147 2968
amazon-2018:Magazine_Subscriptions | amazon-2018/Magazine_Subscriptions.csv
72098 2428 89689 | 326 138 2236 | 294 132 2027 | 642 832 4603 | 665 848 4691
amazon-2023:All_Beauty | amazon-2023/All_Beauty.5core.rating_only.csv.gz
253 356 2535 | 253 356 2535 | 253 356 2535 | 253 356 2535 | 253 356 2535
amazon-2023:All_Beauty | amazon-2023/All_Beauty.0core.last_out_w_his.train.csv
8151 10496 19120 | 171 249 1666 | 171 249 1666 | 299 639 3223 | 571 699 3900
gowalla | gowalla/loc-gowalla_totalCheckins.head-10000.txt
48 6541 10000 | 28 177 2222 | 8 10 59 | 28 183 2241 | 42 183 2270
yelp | yelp/yelp_academic_dataset_review.head-999.json
993 822 999 | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 0
"""
FILES = COUNTS.strip().splitlines()


@here
@pytest.mark.parametrize(("file", "counts"), list(zip(FILES[::2], FILES[1::2], strict=True)))
def test_counts_of_the_published_files(file: str, counts: str, tmp_path: Path) -> None:
    name, file = file.split(" | ")
    size, *filtered = [tuple(map(int, words.split())) for words in counts.split(" | ")]
    for (way, choices), expected in zip(WAYS.items(), filtered, strict=True):
        if expected == (0, 0, 0):
            with pytest.raises(SeqbenchError, match=rf"No interaction of {name} passes the filters"):
                prepare(name, home=tmp_path, raw=RAW / file, **choices)
            continue
        prepared = prepare(name, home=tmp_path, raw=RAW / file, **choices)
        assert (prepared.users, prepared.items, prepared.interactions) == expected, way
        found = prepared.meta["raw_counts"]
        assert (found["users"], found["items"], found["interactions"]) == size
        assert prepared.meta["malformed"] == []


@here
def test_gowalla_as_it_is_cut_to_new_york(tmp_path: Path) -> None:
    path = tmp_path / "loc-gowalla_totalCheckins.txt.gz"
    path.symlink_to(RAW / "gowalla" / "gowalla_events.nyc.tsv.gz")
    for choices, expected in (
        ({"duplicates": "none"}, (3456, 6568, 101_687)),
        ({"duplicates": "first"}, (3092, 4831, 63_294)),
        ({"duplicates": "none", "rule": "item-then-user-once"}, (3489, 6873, 102_951)),
        ({"duplicates": "none", "rule": "joint-once"}, (3854, 6874, 104_194)),
    ):
        prepared = prepare("gowalla", home=tmp_path / "home", raw=path, **choices)
        assert (prepared.users, prepared.items, prepared.interactions) == expected


@here
def test_ml_1m_is_lrurecs(tmp_path: Path) -> None:
    """The users whose ratings are at hand have exactly the sequences that LRURec released."""
    released = pq.read_table(datakit.SHARED / "processed" / "lrurec" / "ml-1m.parquet")
    names = pq.read_table(datakit.SHARED / "processed" / "lrurec" / "ml-1m.items.parquet")
    raw_of = dict(zip(*(names.column(at).to_pylist() for at in (0, 1)), strict=True))
    prepared = prepare(
        "ml-1m",
        home=tmp_path,
        raw=RAW / "ml-1m" / "ratings.users-1-2999.dat.gz",
        ties="item",
        min_user=1,
        min_item=1,
    )
    log = prepared.load()
    users, items = log[USER], log[ITEM]
    raw_ids = np.array(pq.read_table(prepared.directory / "items.parquet").column("raw_id").to_pylist(), int)
    items = raw_ids[items - 1]
    # LRURec's filter counted the ratings of all users, so what it left out is only known from its list of items.
    kept = np.isin(items, list(map(int, raw_of.values())))
    count = int((np.array(released.column("user_id")) <= 2999).sum())
    np.testing.assert_array_equal(users[kept], np.array(released.column("user_id"))[:count])
    theirs = np.array([int(raw_of[item]) for item in released.column("item_id").to_pylist()[:count]])
    np.testing.assert_array_equal(items[kept], theirs)


@here
def test_titles_of_the_published_files(tmp_path: Path) -> None:
    with (RAW / "ml-1m" / "movies.dat").open("rb") as stream:
        films = movielens.titles_colons(stream)
    assert len(films) == 3883
    assert films["73"] == "Misérables, Les (1995)"
    prepared = prepare("ml-latest-small", home=tmp_path, raw=RAW / "ml-latest-small" / "ml-latest-small.zip")
    titles = pq.read_table(prepared.directory / "items.parquet").column("title").to_pylist()
    assert titles[0] == "Toy Story (1995)"
    assert None not in titles
    assert prepared.meta["count_mismatch"] is None


@here
@pytest.mark.parametrize(
    ("name", "columns", "size"),
    [
        ("sasrec-txt/Video.txt", {}, (31_013, 23_715, 287_107)),
        ("sasrec-txt/Beauty.iclrec.txt", {}, (22_363, 12_101, 198_502)),
        ("lastfm-2k/user_artists.dat", {}, (1892, 17_632, 92_834)),
        ("ml-100k/ml-100k.inter", {}, (943, 1682, 100_000)),
    ],
)
def test_other_published_files_as_ones_own(
    name: str, columns: dict[str, str], size: tuple[int, int, int], tmp_path: Path
) -> None:
    prepared = prepare("mine", raw=RAW / name, home=tmp_path, columns=columns)
    assert (prepared.users, prepared.items, prepared.interactions) == size
    if name.startswith("sasrec-txt/V"):
        released = pq.read_table(datakit.SHARED / "processed" / "lrurec" / "video.parquet")
        np.testing.assert_array_equal(prepared.load()[ITEM], released.column("item_id"))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, lines cut, doubled or swapped, pieces lost, or nonsense put in."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 2:
            data[at:at] = rng.choice(
                [b"\0", b"\r", b"\n", b"\n\n", b'"', b"'", b"\xff", b"\xef\xbb\xbf", b"{", b",", b"::", b"\t"]
            )
        elif kind == 3:
            data = data[: max(1, at)]
        elif kind == 4:
            data[at:at] = data[at : at + 60]
        elif kind == 5:
            data[at:at] = rng.choice([b"-1", b"1e99", b"nan", b"99999999999999999999", b"0x1f", b" ", "é".encode()])
        else:
            data[at:at] = bytes(rng.randrange(256) for _ in range(8))
    return bytes(data) or b"x"


def check_fuzzed(name: str, rounds: int, seed: int) -> None:
    """Mutated files give usable rows or one clear error, and the rows that were not touched are right."""
    writer = datakit.WRITERS[name]
    rows = datakit.small_rows(users=8, seed=seed)[:40]
    content = writer.write(rows)
    known = set(writer.read(rows))
    rng = random.Random(seed)
    for _ in range(rounds):
        try:
            found = parse(name, mutated(content, rng))
        except SeqbenchError:
            continue
        assert len(found) + sum(entry.rows for entry in found.malformed) == found.rows
        if FORMATS[name].timed:
            assert len(known & set(rows_of(found))) >= len(known) // 3 or len(found) < len(known) // 2


@pytest.mark.parametrize("name", datakit.WRITERS)
def test_mutated_rows(name: str) -> None:
    check_fuzzed(name, 30, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", datakit.WRITERS)
def test_many_mutated_rows(name: str) -> None:
    check_fuzzed(name, 3000, 2)


def check_archives(rounds: int, seed: int, tmp_path: Path) -> None:
    rows = datakit.small_rows(users=20, seed=seed)
    content = datakit.u_data(rows)
    spec = datakit.spec_of()
    makers: list[Around] = [gzipped, zipped, tarred]
    rng = random.Random(seed)
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = makers[number % len(makers)](folder, "u.data", content)
        path.write_bytes(mutated(path.read_bytes(), rng))
        with (
            contextlib.suppress(SeqbenchError),
            archives.opened(*archives.locate(spec, path).interactions) as (stream, _),
        ):
            assert rows_of(movielens.tab(stream, "x")) == rows_of(movielens.tab(io.BytesIO(content), "x"))
        assert [entry.name for entry in folder.iterdir()] == [path.name]


def test_mutated_archives(tmp_path: Path) -> None:
    check_archives(120, 1, tmp_path)


@pytest.mark.slow
def test_many_mutated_archives(tmp_path: Path) -> None:
    check_archives(5000, 2, tmp_path)


def test_json_that_python_reads_otherwise() -> None:
    """Lines that the fast reader refuses are read one by one, to the same end."""
    lines = [json.dumps({"reviewerID": f"A{n}", "asin": "B", "unixReviewTime": n}) for n in range(2000)]
    odd = '{"reviewerID": "A", "asin": "B", "unixReviewTime": 7, "style": {"Size:": [1, null]}, "asin": "C"}'
    found = parse("amazon-reviews", "\n".join([*lines, odd, '{"reviewerID": 5, "asin": "B"}']).encode())
    assert len(found) == 2001
    assert found.malformed[0].lines == (2002,)
