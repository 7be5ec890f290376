"""Files that give whole sequences: XLong, and the lines "user item item …" that many papers publish.

They have no times: the order of the file is the order of events.
"""

from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqbench.columns import ITEM, USER
from seqbench.data.log import Log
from seqbench.data.parsers.delimited import Lines
from seqbench.data.parsers.rows import Collector

XLONG_FIELDS = 7  # of which the row, the user, the history and the next item are read


def lines(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse "user item item …", oldest first. A user may have several lines, so pairs "user item" are read as well."""
    return read(Lines(stream, where), where)


def read(source: Lines, where: str) -> Log:
    """The same, from where `source` stands."""
    collector = Collector(where)
    for block in source:
        texts, numbers = _texts(block, source.lines, collector)
        texts = pc.utf8_trim_whitespace(texts)
        fits = pc.match_substring_regex(texts, r"^[0-9]{1,18}( +[0-9]{1,18})+$").to_numpy(zero_copy_only=False)
        blank = pc.equal(texts, "").to_numpy(zero_copy_only=False)
        collector.reject("not a user and its items", numbers[~fits & ~blank])
        words = pc.ascii_split_whitespace(texts.filter(pa.array(fits)))
        ids = pc.list_flatten(words).cast(pa.int64()).to_numpy()
        counts = pc.list_value_length(words).to_numpy()
        first = np.zeros(len(ids), bool)
        first[np.cumsum(counts) - counts] = True
        if len(ids):
            collector.add({USER: np.repeat(ids[first], counts - 1), ITEM: ids[~first]})
        collector.check_hope()
    return collector.finish()


def xlong(stream: BinaryIO, where: str, *, ratings: bool = False) -> Log:
    """Parse the corpus files of XLong, one after the other: seven fields between TABs, without a header.

    The third holds the items of the history between commas, the fourth the item that follows them. Each line is a
    user of its own, as in LRURec's code.
    """
    source = Lines(stream, where)
    collector = Collector(where)
    for block in source:
        texts, numbers = _texts(block, source.lines, collector)
        fields = pc.split_pattern(texts, "\t")
        fits = pc.list_value_length(fields).to_numpy() == XLONG_FIELDS
        blank = pc.equal(texts, "").to_numpy(zero_copy_only=False)
        collector.reject("wrong number of fields", numbers[~fits & ~blank])
        fields, numbers = fields.filter(pa.array(fits)), numbers[fits]
        history = pc.binary_join_element_wise(pc.list_element(fields, 2), pc.list_element(fields, 3), ",")
        numeric = pc.match_substring_regex(history, r"^[0-9]{1,18}(,[0-9]{1,18})*$")
        collector.reject("item id is not a whole number", numbers[~numeric.to_numpy(zero_copy_only=False)])
        items = pc.split_pattern(history.filter(numeric), ",")
        users = numbers[numeric.to_numpy(zero_copy_only=False)]
        if len(users):
            collector.add(
                {
                    USER: np.repeat(users, pc.list_value_length(items).to_numpy()),
                    ITEM: pc.list_flatten(items).cast(pa.int64()).to_numpy(),
                }
            )
        collector.check_hope()
    return collector.finish()


def _texts(block: bytes, before: int, collector: Collector) -> tuple[pa.Array, np.ndarray]:
    """The lines of a block that are UTF-8, and their numbers."""
    try:
        texts = pa.array(block.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n"), pa.string())
        return texts, np.arange(before + 1, before + 1 + len(texts))
    except UnicodeDecodeError:
        good, numbers, bad = [], [], []
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=before + 1):
            try:
                good.append(line.decode("utf-8").removesuffix("\r"))
                numbers.append(number)
            except UnicodeDecodeError:
                bad.append(number)
        collector.reject("not UTF-8", bad)
        return pa.array(good, pa.string()), np.array(numbers, np.int64)
