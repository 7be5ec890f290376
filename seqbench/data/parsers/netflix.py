"""The Netflix prize: a line `film:`, then its ratings `customer,rating,YYYY-MM-DD`."""

import re
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from seqbench.columns import ITEM, RATING, TIMESTAMP, USER
from seqbench.data.log import Log
from seqbench.data.parsers.delimited import Lines, one_piece
from seqbench.data.parsers.rows import Collector, Fields, judge
from seqbench.data.parsers.times import ISO

FIELDS = Fields({USER: "user", ITEM: "item", TIMESTAMP: "date", RATING: "rating"}, whole_ids=True, times=ISO)


def interactions(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse combined_data_*.txt, one after the other."""
    lines = Lines(stream, where)
    collector = Collector(where)
    film = ""  # of the rows at the top of a block
    for block in lines:
        film = _block(block, film, lines.lines, collector, ratings)
        collector.check_hope()
    return collector.finish()


def _block(block: bytes, film: str, before: int, collector: Collector, ratings: bool) -> str:
    """Add the rows of a block; returns the film that it ends with."""
    breaks: list[tuple[int, str]] = []  # rows that are not three values, counted from 1 in this block

    def other(row: pyarrow.csv.InvalidRow) -> str:
        breaks.append((row.number, row.text))
        return "skip"

    names = ["user", "rating", "date"]
    table = pyarrow.csv.read_csv(
        pa.BufferReader(block),
        read_options=pyarrow.csv.ReadOptions(
            column_names=names, use_threads=False, encoding="iso-8859-1", block_size=2 * one_piece(block)
        ),
        parse_options=pyarrow.csv.ParseOptions(quote_char=False, ignore_empty_lines=False, invalid_row_handler=other),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    numbers = np.array([number for number, _ in breaks], np.int64)
    positions = np.arange(table.num_rows)
    shift = np.searchsorted(numbers - np.arange(1, len(numbers) + 1), positions, side="right")
    # The film of a row is the last one that was named above it.
    films = [film]
    for number, text in breaks:
        named = text.strip()
        if re.fullmatch("[0-9]+:", named):
            film = named[:-1]
        elif named:
            collector.reject("neither a film nor a rating", [before + number])
            if "," not in named:  # a damaged film: whose ratings follow, nobody can tell
                film = ""
        films.append(film)
    texts = {
        USER: table.column("user").combine_chunks(),
        ITEM: pa.array(films, pa.string()).take(pa.array(shift)),
        TIMESTAMP: table.column("date").combine_chunks(),
    }
    if ratings:
        texts[RATING] = table.column("rating").combine_chunks()
    if table.num_rows:
        judge(texts, FIELDS, before + positions + shift + 1, collector)
    return film
