"""What the data tests share: a small data set in both raw formats, archives of it, and specs for them."""

import dataclasses
import hashlib
import io
import random
import zipfile
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
            RECBOLE.interactions.path: inter(rows),
            RECBOLE.items.path: item(rows),
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
