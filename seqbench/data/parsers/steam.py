"""Steam's reviews: Python dictionaries, one per line, as a script printed them."""

from typing import BinaryIO

from seqbench.columns import ITEM, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers import objects
from seqbench.data.parsers.rows import Fields
from seqbench.data.parsers.times import ISO


def interactions(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse username, product_id and date (a day). user_id is often missing, so the name is the user."""
    return objects.literal_lines(
        stream, where, Fields({USER: "username", ITEM: "product_id", TIMESTAMP: "date"}, times=ISO)
    )
