"""MovieLens as GroupLens publishes it: three formats, and their lists of films."""

import csv
import io
from dataclasses import replace
from typing import BinaryIO

from seqbench.columns import ITEM, RATING, ROLES, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers import delimited, recognise
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.rows import Fields

NAMES = ["user", "item", "rating", "time"]
FIELDS = Fields({USER: "user", ITEM: "item", TIMESTAMP: "time", RATING: "rating"}, whole_ids=True)


def tab(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse u.data (100K): user TAB item TAB rating TAB Unix seconds, no header."""
    return _read(stream, where, ratings, "\t")


def colons(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse ratings.dat (1M, 10M): user::item::rating::Unix seconds, no header."""
    return _read(stream, where, ratings, "::")


def comma(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse ratings.csv (20M, 25M, 32M, latest): userId,movieId,rating,timestamp under a header."""
    return _read(stream, where, ratings, ",")


def _read(stream: BinaryIO, where: str, ratings: bool, between: str) -> Log:
    lines = Lines(stream, where)
    names, titles = recognise.ordered(lines, where, NAMES, between)
    fields = replace(FIELDS, header={ROLES[role]: title for role, title in titles.items()})
    return delimited.interactions(
        lines,
        where,
        names,
        fields.without_ratings(unless=ratings),
        delimiter="\t" if between == "::" else between,
        separator=b"::" if between == "::" else None,
    )


def titles_bars(stream: BinaryIO) -> dict[str, str]:
    """Parse u.item: `|`-separated ISO-8859-1, item id and title first. Lines without both are passed over."""
    return _titles(stream, "|")


def titles_colons(stream: BinaryIO) -> dict[str, str]:
    """Parse movies.dat: id::title::genres, ISO-8859-1. Lines without a title are passed over."""
    return _titles(stream, "::")


def titles_comma(stream: BinaryIO) -> dict[str, str]:
    """Parse movies.csv: movieId,title,genres, UTF-8, titles with commas in quotes."""
    rows = csv.reader(io.StringIO(stream.read().decode("utf-8-sig", errors="replace"), newline=""))
    try:
        return {row[0]: row[1].strip() for row in rows if len(row) >= 2 and row[0].isdigit() and row[1].strip()}
    except csv.Error:  # a field past the module's limit: this is no list of films
        return {}


def _titles(stream: BinaryIO, separator: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in stream.read().decode("iso-8859-1").split("\n"):
        item, _, rest = line.partition(separator)
        title = rest.partition(separator)[0].strip()
        if item and title:
            found[item] = title
    return found
