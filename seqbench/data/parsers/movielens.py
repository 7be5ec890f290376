"""MovieLens 100K as GroupLens publishes it."""

from typing import BinaryIO

from seqbench.data.parsers.rows import RawInteractions
from seqbench.data.parsers.rows import interactions as read


def interactions(stream: BinaryIO, where: str) -> RawInteractions:
    """Parse u.data: user TAB item TAB rating TAB Unix seconds, no header."""
    names = ["user", "item", "rating", "timestamp"]
    return read(stream, where, names, ("user", "item", "timestamp"), decimal=False, header=0)


def titles(stream: BinaryIO) -> dict[str, str]:
    """Parse u.item: `|`-separated ISO-8859-1, item id and title first. Lines without both are passed over."""
    found: dict[str, str] = {}
    for line in stream.read().decode("iso-8859-1").split("\n"):
        item, _, rest = line.partition("|")
        title = rest.partition("|")[0].strip()
        if item and title:
            found[item] = title
    return found
