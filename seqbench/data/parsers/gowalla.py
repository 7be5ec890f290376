"""Gowalla's check-ins."""

from typing import BinaryIO

from seqbench.data.parsers import delimited
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.rows import Fields, RawInteractions


def interactions(stream: BinaryIO, where: str, *, ratings: bool = False) -> RawInteractions:
    """Parse user TAB ISO time in UTC TAB latitude TAB longitude TAB location, newest first. There are no ratings."""
    names = ["user", "time", "latitude", "longitude", "location"]
    fields = Fields("user", "location", time="time", whole_ids=True, times="iso")
    return delimited.interactions(Lines(stream, where), where, names, fields)
