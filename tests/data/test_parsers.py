"""Raw formats: both give the same rows, and what cannot be used is counted or refused."""

import io

import datakit
import pytest

from seqbench.columns import ITEM, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers import FORMATS, TITLES, movielens, recbole
from seqbench.data.parsers.rows import MALFORMED_LIMIT
from seqbench.errors import SeqbenchError

HEADER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def tab(content: bytes) -> Log:
    return movielens.tab(io.BytesIO(content), "u.data")


def atomic(content: bytes) -> Log:
    return recbole.interactions(io.BytesIO(content), "x.inter")


def table(log: Log) -> list[tuple[str, str, int]]:
    """(user, item, time) of every row, with the raw ids."""
    users, items = log.users.to_pylist(), log.items.to_pylist()
    return [
        (users[user], items[item], int(time))
        for user, item, time in zip(log[USER], log[ITEM], log[TIMESTAMP], strict=True)
    ]


def filler(count: int) -> bytes:
    return b"".join(b"%d\t%d\t3\t880000000\n" % (n, n) for n in range(1, count + 1))


def malformed(log: Log) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {entry.kind: (entry.rows, entry.lines) for entry in log.malformed}


def test_both_formats_agree(rows: list[datakit.Row]) -> None:
    left, right = tab(datakit.u_data(rows)), atomic(datakit.inter(rows))
    assert table(left) == table(right) == [(row[0], row[1], row[3]) for row in rows]
    assert left.rows == right.rows == len(rows)
    assert malformed(left) == malformed(right) == {}


def test_every_registered_parser_exists() -> None:
    for name, form in FORMATS.items():
        with pytest.raises(SeqbenchError, match=r"empty|malformed"):
            form.parse(io.BytesIO(b"\n"), name)
    assert all(callable(parse) for _, parse in TITLES.items())


def test_malformed_rows_are_counted_with_their_lines() -> None:
    good = filler(2000)
    bad = (
        b"1\t2\t3\n"  # line 2001
        b"1\t2\t3\tsoon\n"
        b"\t2\t3\t5\n"
        b"1\t\t3\t5\n"
        b"1\t2\t3\t4\t5\n"
        b"1\t\xff\t3\t5\n"
        b"\n"
        b"1\t2\t3\t5.5\n"
        b"1\t2\t3\t-5\n"
    )
    raw = tab(good * 5 + bad)
    assert raw.rows == 10_008  # without the blank line
    assert len(raw) == 10_001
    assert malformed(raw) == {
        "wrong number of fields": (2, (10_001, 10_005)),
        "empty user id": (1, (10_003,)),
        "empty item id": (1, (10_004,)),
        "not UTF-8": (1, (10_006,)),
        "timestamp is not a whole number": (2, (10_002, 10_008)),
    }


def test_lines_count_the_header_and_what_stands_between() -> None:
    content = HEADER + b"x\n" + filler(1500) + b"y\n1\t2\t3\tz\n" + filler(1500)
    assert malformed(atomic(content)) == {
        "wrong number of fields": (2, (2, 1503)),
        "timestamp is not a number": (1, (1504,)),
    }


def test_lines_far_into_a_large_file() -> None:
    content = filler(200_000) + b"1\t2\t3\tx\n" + filler(10)  # several blocks of the reader
    assert malformed(tab(content)) == {"timestamp is not a whole number": (1, (200_001,))}


def test_threshold() -> None:
    count = round(1 / MALFORMED_LIMIT)
    assert len(tab(filler(count - 1) + b"x\n")) == count - 1
    with pytest.raises(SeqbenchError, match=r"u.data: 1 of 999 rows are malformed") as caught:
        tab(filler(count - 2) + b"x\n")
    assert "wrong number of fields: 1 (line 999)" in caught.value.message
    assert "--raw PATH" in (caught.value.hint or "")


def test_another_file_altogether() -> None:
    with pytest.raises(SeqbenchError, match=r"wrong number of fields: 3,000 \(line 1, 2, 3, 4, 5, …\)"):
        tab(b"1::2::3::4\n" * 3000)
    with pytest.raises(SeqbenchError, match="not a RecBole header: '196' should read name:type"):
        atomic(b"196\t242\t3\t881250949\n")
    with pytest.raises(SeqbenchError, match="no field timestamp"):
        atomic(b"user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(SeqbenchError, match="1 of 1 rows are malformed"):
        tab(b"\x00" * (3 << 20))


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_empty(content: bytes) -> None:
    with pytest.raises(SeqbenchError, match=r"is empty|malformed"):
        tab(content)
    with pytest.raises(SeqbenchError, match="is empty"):
        atomic(content)
    with pytest.raises(SeqbenchError, match="is empty"):
        atomic(HEADER)


def test_line_endings_and_byte_order_mark() -> None:
    content = filler(3)
    assert table(tab(content.replace(b"\n", b"\r\n"))) == table(tab(content))
    assert table(tab(b"\xef\xbb\xbf" + content)) == table(tab(content))
    assert table(tab(content.rstrip(b"\n"))) == table(tab(content))
    windows = b"\xef\xbb\xbf" + (HEADER + content).replace(b"\n", b"\r\n")
    assert table(atomic(windows)) == table(tab(content))


def test_ids_beyond_ascii() -> None:
    content = HEADER + "é\t日本\t3\t5\n1\t2\t3\t6\n".encode()
    assert table(atomic(content)) == [("é", "日本", 5), ("1", "2", 6)]


def test_misfit_that_is_not_utf8_does_not_hide_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    content = filler(1500) + b"Mis\xe9rables\n" + filler(1500)
    assert malformed(tab(content)) == {"wrong number of fields": (1, (1501,))}
    assert capfd.readouterr().err == ""


def test_quotes_are_data() -> None:
    assert table(atomic(HEADER + b'"a\tb"\t3\t880000000\n')) == [('"a', 'b"', 880000000)]


def test_decimal_timestamps() -> None:
    def read(*written: str) -> Log:
        return atomic(HEADER + "".join(f"1\t{n}\t3\t{time}\n" for n, time in enumerate(written)).encode())

    raw = read("881250949", "881250949.0", "8.81250949E8", "8.8e8")
    assert raw[TIMESTAMP].tolist() == [881250949] * 3 + [880000000]
    assert raw.time_scale == 1
    raw = read("881250949", "881250949.9", "8.8e8")
    assert raw[TIMESTAMP].tolist() == [881250949_000000, 881250949_900000, 880000000_000000]
    assert raw.time_scale == 10**6


@pytest.mark.parametrize("time", [b"inf", b"1e99", b"1e16", b"0x10", b"1,5", b".", b"1e", b"9" * 20])
def test_what_is_no_timestamp(time: bytes) -> None:
    content = HEADER + filler(1000) + b"1\t2\t3\t" + time + b"\n"
    assert malformed(atomic(content)) == {"timestamp is not a number": (1, (1002,))}


@pytest.mark.parametrize("time", [b"", b" ", b"nan", b"NaT", b"NULL", b"None", b"N/A", b"\\N"])
def test_what_stands_for_no_timestamp(time: bytes) -> None:
    content = HEADER + filler(1000) + b"1\t2\t3\t" + time + b"\n"
    assert malformed(atomic(content)) == {"no timestamp": (1, (1002,))}


@pytest.mark.parametrize("bad", [b"", b"1\t2\t3\tsoon\n"])
@pytest.mark.parametrize(
    ("time", "parts"),
    [(b"-5", -5_000_000), (b"+13", 13_000_000), (b".5", 500_000), (b"-0.25", -250_000), (b"1.5e1", 15_000_000)],
)
def test_numbers_are_read_alike_at_once_and_one_by_one(time: bytes, parts: int, bad: bytes) -> None:
    content = HEADER + filler(2000) + b"1\t2\t3\t0.25\n" + bad + b"1\t2\t3\t" + time + b"\n"
    log = atomic(content)
    assert log.time_scale == 10**6
    assert log[TIMESTAMP][-1] == parts


def test_columns_in_another_order() -> None:
    content = b"timestamp:float\titem_id:token\tuser_id:token\n7\t8\t9\n"
    assert table(atomic(content)) == [("9", "8", 7)]


def test_titles_agree(rows: list[datakit.Row]) -> None:
    left = movielens.titles_bars(io.BytesIO(datakit.u_item(rows)))
    right = recbole.titles(io.BytesIO(datakit.item(rows)))
    assert left == right
    assert left["7"] == "Café 7 (1995)"


def test_title_oddities() -> None:
    head = b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    body = b"1\tPart III (1995)\tV\tx\n2\tNo year\t\tx\n3\tTwice (1990)\t1990\tx\n4\tshort\n\n5\t\t1990\tx\n"
    assert recbole.titles(io.BytesIO(head + body)) == {
        "1": "Part III (1995)",
        "2": "No year",
        "3": "Twice (1990)",
    }
    assert movielens.titles_bars(io.BytesIO(b"1|A|x\n2||\n\n3\n|B|\n4|C")) == {"1": "A", "4": "C"}
