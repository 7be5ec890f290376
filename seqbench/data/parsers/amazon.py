"""Amazon reviews of 2014, 2018 and 2023, and Yelp's, which are written alike."""

import re
from dataclasses import replace
from typing import BinaryIO

from seqbench.columns import ITEM, RATING, ROLES, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers import delimited, objects, recognise
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.rows import Fields, empty
from seqbench.data.parsers.times import ISO


def user_first(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse ratings_*.csv of 2014: user,item,rating,Unix seconds of a day. Some copies add a header."""
    return _csv(stream, where, ["user", "item", "rating", "time"], ratings)


def item_first(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse the CSV of 2018: item,user,rating,Unix seconds of a day, lines ended by CR LF."""
    return _csv(stream, where, ["item", "user", "rating", "time"], ratings)


def benchmark(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse the CSV of 2023: user_id,parent_asin,rating,timestamp in ms, and any columns after these.

    Files from before 2024-02-25 have no header.
    """
    return _csv(stream, where, ["user", "item", "rating", "time", "history"], ratings)


def reviews(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse reviews, one JSON object per line: reviewerID, asin, overall, unixReviewTime."""
    fields = Fields({USER: "reviewerID", ITEM: "asin", TIMESTAMP: "unixReviewTime", RATING: "overall"})
    return objects.json_lines(Lines(stream, where), where, fields.without_ratings(unless=ratings))


def yelp(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse yelp_academic_dataset_review.json: user_id, business_id, stars, date."""
    fields = Fields({USER: "user_id", ITEM: "business_id", TIMESTAMP: "date", RATING: "stars"}, times=ISO)
    return objects.json_lines(Lines(stream, where), where, fields.without_ratings(unless=ratings))


# An item, and a user: what the columns are where no header says it.
ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
REVIEWER = re.compile(r"A[0-9A-Z]{9,}")


def _csv(stream: BinaryIO, where: str, names: list[str], ratings: bool) -> Log:
    lines = Lines(stream, where)
    if not lines.peek().strip():
        raise empty(where)
    notes = []
    names = names[: max(4, lines.peek().count(",") + 1)]  # the fifth is not in every file
    names, titles = recognise.ordered(lines, where, names, ",")
    if not titles:
        rows = [line.split(",") for line in lines.sample().splitlines()[:1000] if line.count(",") >= 3]
        first, second = names[:2]
        if rows and all(_is(second, row[0].strip()) and _is(first, row[1].strip()) for row in rows):
            names = [second, first, *names[2:]]
            notes.append(f"its lines begin with the {second}, and are read so.")
    if "history" in names:
        notes.append("its column history is not read: a row is one interaction.")
    columns = {USER: "user", ITEM: "item", TIMESTAMP: "time", RATING: "rating"}
    fields = Fields(columns, header={ROLES[role]: title for role, title in titles.items()})
    log = delimited.interactions(lines, where, names, fields.without_ratings(unless=ratings), delimiter=",")
    return replace(log, notes=(*log.notes, *notes))


def _is(role: str, text: str) -> bool:
    return bool((REVIEWER if role == "user" else ASIN).fullmatch(text))
