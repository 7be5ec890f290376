"""Steam's reviews: Python dictionaries, one per line, as a script printed them."""

from typing import BinaryIO

from seqbench.data.parsers import objects
from seqbench.data.parsers.rows import Fields, RawInteractions


def interactions(stream: BinaryIO, where: str, *, ratings: bool = False) -> RawInteractions:
    """Parse username, product_id and date (a day). user_id is often missing, so the name is the user."""
    return objects.literal_lines(stream, where, Fields("username", "product_id", time="date", times="iso"))
