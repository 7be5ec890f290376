"""What the data tests share: a small data set in both raw formats, archives of it, and specs for them."""

import dataclasses
import datetime
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

from seqbench.data.catalog import DatasetSpec, Source, get_spec

Row = tuple[str, str, int, int]  # user, item, rating, timestamp

ML100K = get_spec("ml-100k")
GROUPLENS, RECBOLE = ML100K.sources

# The real files, where a developer has them. They may not be redistributed, so they are never committed.
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
REAL = SHARED / "raw" / "ml-100k"


def small_rows(users: int = 50, items: int = 60, seed: int = 3) -> list[Row]:
    """50 users with 10 to 30 of 60 items, many equal timestamps, in no order of time, like u.data."""
    rng = random.Random(seed)
    rows = [
        (str(user), str(item), rng.randint(1, 5), 880_000_000 + rng.randint(0, 9) * 60)
        for user in range(1, users + 1)
        for item in rng.sample(range(1, items + 1), rng.randint(10, 30))
    ]
    rng.shuffle(rows)
    return rows


def u_data(rows: list[Row]) -> bytes:
    return "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in rows).encode()


def inter(rows: list[Row]) -> bytes:
    return b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + u_data(rows)


def u_item(rows: list[Row]) -> bytes:
    items = sorted({int(row[1]) for row in rows})
    return "".join(f"{i}|Café {i} (1995)|01-Jan-1995||http://x|0|1\n" for i in items).encode("iso-8859-1")


def item(rows: list[Row]) -> bytes:
    items = sorted({int(row[1]) for row in rows})
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    return (head + "".join(f"{i}\tCafé {i}\t1995\tDrama\n" for i in items)).encode()


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, content in members.items():
            writer.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def grouplens_zip(rows: list[Row]) -> bytes:
    return archive({"ml-100k/u.data": u_data(rows), "ml-100k/u.item": u_item(rows)})


def recbole_wheel(rows: list[Row]) -> bytes:
    """Also a wheel that pip accepts."""
    assert RECBOLE.items is not None
    info = "recbole-1.2.1.dist-info"
    return archive(
        {
            RECBOLE.interactions.member[0]: inter(rows),
            RECBOLE.items.member[0]: item(rows),
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )


def source_of(source: Source, content: bytes, **changes: object) -> Source:
    """`source` with the size and checksums of `content`, and no checksum of the members."""
    fields: dict[str, object] = {
        "size": len(content),
        "md5": (hashlib.md5(content).hexdigest(),) if source.md5 else (),
        "sha256": (hashlib.sha256(content).hexdigest(),),
        "interactions": dataclasses.replace(source.interactions, sha256=()),
    }
    return dataclasses.replace(source, **(fields | changes))  # type: ignore[arg-type]


def spec_of(*sources: Source, **changes: object) -> DatasetSpec:
    """ml-100k with other sources, and without published counts."""
    fields: dict[str, object] = {"sources": sources or local_sources(), "expected": None}
    return dataclasses.replace(ML100K, **(fields | changes))  # type: ignore[arg-type]


def local_sources() -> tuple[Source, ...]:
    """Both sources without member checksums: for generated files that a user gives with --raw."""
    return tuple(
        dataclasses.replace(source, interactions=dataclasses.replace(source.interactions, sha256=()))
        for source in ML100K.sources
    )


@dataclasses.dataclass(frozen=True)
class Writer:
    """A raw format: how rows are written in it, and what is to be read from that."""

    write: Callable[[list[Row]], bytes]
    read: Callable[[list[Row]], list[tuple[str, str, int]]]


def _lines(form: Callable[[Row], str], head: str = "", end: str = "\n") -> Callable[[list[Row]], bytes]:
    return lambda rows: (head + "".join(form(row) + end for row in rows)).encode()


def _day(time: int) -> str:
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d")


def _moment(time: int, between: str = "T", end: str = "Z") -> str:
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime(f"%Y-%m-%d{between}%H:%M:%S{end}")


def _as_is(rows: list[Row]) -> list[tuple[str, str, int]]:
    return [(user, item, time) for user, item, _, time in rows]


def _named(rows: list[Row]) -> list[tuple[str, str, int]]:
    return [(f"A{user}", f"B{item}", time) for user, item, _, time in rows]


def _by_day(rows: list[Row]) -> list[tuple[str, str, int]]:
    return [(user, item, time - time % 86_400) for user, item, _, time in rows]


def _numbered(rows: list[Row]) -> list[tuple[str, str, int]]:
    return [(user, item, number) for number, (user, item, _, _) in enumerate(rows)]


def _grouped(rows: list[Row], at: int) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row[at]), []).append(row)
    return groups


def _netflix(rows: list[Row]) -> bytes:
    films = _grouped(rows, 1).items()
    return "".join(
        f"{film}:\n" + "".join(f"{u},{r},{_day(t)}\n" for u, _, r, t in found) for film, found in films
    ).encode()


def _xlong(rows: list[Row]) -> bytes:
    lines = []
    for number, (user, found) in enumerate(_grouped(rows, 0).items()):
        *history, target = [item for _, item, _, _ in found]
        lines.append(f"{number}\t{user}\t{','.join(history)}\t{target}\t9\t0\t0\n")
    return "".join(lines).encode()


def _read_xlong(rows: list[Row]) -> list[tuple[str, str, int]]:
    numbered = enumerate(_grouped(rows, 0).values(), start=1)
    items = [(str(number), item) for number, found in numbered for _, item, _, _ in found]
    return [(user, item, at) for at, (user, item) in enumerate(items)]


def _steam(row: Row) -> str:
    user, item, _, time = row
    text = """u'hours': 0.5, u'text': u"it's", u'early_access': False"""
    return f"{{u'username': u'A{user}', {text}, u'date': u'{_day(time)}', u'product_id': u'B{item}'}}"


def _review(row: Row) -> str:
    user, item, rating, time = row
    return json.dumps(
        {
            "overall": float(rating),
            "reviewerID": f"A{user}",
            "asin": f"B{item}",
            "style": {"a": " 1"},
            "unixReviewTime": time,
        }
    )


def _yelp(row: Row) -> str:
    user, item, rating, time = row
    fields = {"user_id": f"A{user}", "business_id": f"B{item}", "stars": float(rating), "date": _moment(time, " ", "")}
    return json.dumps(fields, ensure_ascii=False)


WRITERS = {
    "amazon-2014": Writer(_lines(lambda r: f"A{r[0]},B{r[1]},{r[2]}.0,{r[3]}"), _named),
    "amazon-2018": Writer(_lines(lambda r: f"B{r[1]},A{r[0]},{r[2]}.0,{r[3]}", end="\r\n"), _named),
    "amazon-2023": Writer(
        _lines(lambda r: f"A{r[0]},B{r[1]},{r[2]}.0,{r[3]}123", "user_id,parent_asin,rating,timestamp\n"),
        lambda rows: [(user, item, time * 1000 + 123) for user, item, time in _named(rows)],
    ),
    "amazon-reviews": Writer(_lines(_review), _named),
    "gowalla": Writer(_lines(lambda r: f"{r[0]}\t{_moment(r[3])}\t30.2\t-97.7\t{r[1]}"), _as_is),
    "movielens-colons": Writer(_lines(lambda r: f"{r[0]}::{r[1]}::{r[2]}::{r[3]}"), _as_is),
    "movielens-csv": Writer(
        _lines(lambda r: f"{r[0]},{r[1]},{r[2]}.0,{r[3]}", "userId,movieId,rating,timestamp\r\n", "\r\n"), _as_is
    ),
    "movielens-tab": Writer(u_data, _as_is),
    "netflix": Writer(_netflix, lambda rows: _by_day([row for film in _grouped(rows, 1).values() for row in film])),
    "recbole-inter": Writer(inter, _as_is),
    "sequence-lines": Writer(_lines(lambda r: f"{r[0]} {r[1]}"), _numbered),
    "steam": Writer(_lines(_steam), lambda rows: [(f"A{user}", f"B{item}", day) for user, item, day in _by_day(rows)]),
    "xlong": Writer(_xlong, _read_xlong),
    "yelp": Writer(_lines(_yelp), _named),
}
