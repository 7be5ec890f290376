"""Amazon reviews of 2014, 2018 and 2023, and Yelp's, which are written alike."""

from typing import BinaryIO

from seqbench.columns import ITEM, RATING, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers import delimited, objects
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.rows import Fields, empty
from seqbench.errors import SeqbenchError


def user_first(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse ratings_*.csv of 2014: user,item,rating,Unix seconds of a day. Some copies add a header."""
    return _csv(stream, where, ["user", "item", "rating", "timestamp"], ratings)


def item_first(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse the CSV of 2018: item,user,rating,Unix seconds of a day, lines ended by CR LF."""
    return _csv(stream, where, ["item", "user", "rating", "timestamp"], ratings)


def benchmark(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse the CSV of 2023: user_id,parent_asin,rating,timestamp in ms, and any columns after these.

    Files from before 2024-02-25 have no header.
    """
    lines = Lines(stream, where)
    known = ["user_id", "parent_asin", "rating", "timestamp", "history"]
    if not lines.peek().strip():
        raise empty(where)
    names = lines.peek().split(",")
    if "user_id" in names:
        lines.header()
    elif 4 <= len(names) <= 5:
        names = known[: len(names)]
    if missing := [name for name in known[:4] if name not in names]:
        raise SeqbenchError(
            f"{where}: its header has no column {' nor '.join(missing)} (it has {', '.join(names)[:200]}).",
            hint="Give a file as the publisher has it: user_id,parent_asin,rating,timestamp.",
        )
    fields = Fields({USER: "user_id", ITEM: "parent_asin", TIMESTAMP: "timestamp", RATING: "rating"})
    return delimited.interactions(lines, where, names, fields.without_ratings(unless=ratings), delimiter=",")


def reviews(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse reviews, one JSON object per line: reviewerID, asin, overall, unixReviewTime."""
    fields = Fields({USER: "reviewerID", ITEM: "asin", TIMESTAMP: "unixReviewTime", RATING: "overall"})
    return objects.json_lines(Lines(stream, where), where, fields.without_ratings(unless=ratings))


def yelp(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse yelp_academic_dataset_review.json: user_id, business_id, stars, date."""
    fields = Fields({USER: "user_id", ITEM: "business_id", TIMESTAMP: "date", RATING: "stars"}, times="iso")
    return objects.json_lines(Lines(stream, where), where, fields.without_ratings(unless=ratings))


def _csv(stream: BinaryIO, where: str, names: list[str], ratings: bool) -> Log:
    lines = Lines(stream, where)
    first = lines.peek().split(",")
    if len(first) == len(names) and not first[-1].strip().isdigit() and first[-1].strip().isalpha():
        lines.header()
    fields = Fields({USER: "user", ITEM: "item", TIMESTAMP: "timestamp", RATING: "rating"})
    return delimited.interactions(lines, where, names, fields.without_ratings(unless=ratings), delimiter=",")
