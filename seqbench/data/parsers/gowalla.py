"""Gowalla's check-ins."""

from typing import BinaryIO

from seqbench.columns import ITEM, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers import delimited
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.rows import Fields
from seqbench.data.parsers.times import ISO


def interactions(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse user TAB ISO time in UTC TAB latitude TAB longitude TAB location, newest first. There are no ratings."""
    names = ["user", "time", "latitude", "longitude", "location"]
    fields = Fields({USER: "user", ITEM: "location", TIMESTAMP: "time"}, whole_ids=True, times=ISO)
    return delimited.interactions(Lines(stream, where), where, names, fields)
