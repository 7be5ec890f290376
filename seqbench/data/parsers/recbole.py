"""RecBole's atomic files: TAB-separated UTF-8 under a header of `name:type` fields."""

import re
from typing import BinaryIO

from seqbench.columns import ITEM, RATING, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers import delimited
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.rows import Fields
from seqbench.data.parsers.times import NUMBERS
from seqbench.errors import SeqbenchError

TYPES = ("token", "token_seq", "float", "float_seq")


def interactions(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse a .inter file with the fields user_id, item_id and timestamp among any others."""
    lines = Lines(stream, where)
    names, _ = header(lines, where)
    wanted = ["user_id", "item_id", "timestamp", *(["rating"] if ratings else [])]
    if missing := [name for name in wanted if name not in names]:
        raise SeqbenchError(
            f"{where}: its header has no field {' nor '.join(missing)} (it has {', '.join(names)}).",
            hint="Give a .inter file with user_id:token, item_id:token and timestamp:float.",
        )
    fields = Fields(dict(zip((USER, ITEM, TIMESTAMP, RATING), wanted, strict=False)), times=NUMBERS)
    return delimited.interactions(lines, where, names, fields)


def titles(stream: BinaryIO) -> dict[str, str]:
    """Parse a .item file: `title (year)`, from a title field and, where there is one, release_year."""
    lines = Lines(stream, "the item file")
    names, _ = header(lines, "the item file")
    item_at = names.index("item_id") if "item_id" in names else None
    title_at = next((names.index(name) for name in ("movie_title", "title") if name in names), None)
    year_at = names.index("release_year") if "release_year" in names else None
    found: dict[str, str] = {}
    if item_at is None or title_at is None:
        return found
    for line in lines.rest().decode("utf-8", errors="replace").split("\n"):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != len(names):
            continue
        title = fields[title_at].strip()
        if not fields[item_at] or not title:
            continue
        year = fields[year_at] if year_at is not None else ""
        # One film of ml-100k carries its year in the title and "V" (video) in the year's place.
        if re.fullmatch(r"[0-9]{4}", year) and f"({year})" not in title:
            title = f"{title} ({year})"
        found[fields[item_at]] = title
    return found


def header(lines: Lines, where: str) -> tuple[list[str], list[str]]:
    """Consume the first line and return the names of the fields, and their types."""
    names, kinds = [], []
    for field in lines.header().split("\t"):
        name, _, kind = field.strip().strip('"').partition(":")
        if kind not in TYPES:
            raise SeqbenchError(
                f"{where}: line 1 is not a RecBole header: '{field[:40]}' should read name:type, "
                f"with a type of {', '.join(TYPES)}.",
                hint="Give the file as RecBole ships it, header included.",
            )
        names.append(name)
        kinds.append(kind)
    return names, kinds
