"""What all parsers share: gathering columns block by block, numbering ids, and judging rows that cannot be used.

Shapes: n rows.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqbench.columns import ITEM, POSITION, RATING, SPLIT, TIMESTAMP, USER
from seqbench.data.log import Log, Malformed
from seqbench.errors import SeqbenchError

WHOLE_NUMBER = r"^[0-9]{1,18}$"  # fits int64
DECIMAL_NUMBER = r"^[0-9]{1,15}(\.[0-9]*)?([eE]\+?[0-9]{1,2})?$"
LARGEST_EXACT = 2**53  # whole numbers up to here survive a float64
LARGEST_WHOLE = 10**18 - 1

# A cut download damages its last line, an edited copy a handful. Past one row in a thousand the file is not
# what it claims to be, and counting on with the rest would give figures that nobody can reproduce.
MALFORMED_LIMIT = 0.001

# A file of another kind is not read to its end: past this many rows, one in ten malformed is enough to stop.
HOPELESS_ROWS = 100_000
HOPELESS_SHARE = 0.1

SHOWN_LINES = 5

FRACTION = "fraction"  # of a block: what a time has beyond its whole units, in parts of TIME_SCALE

_PART_NAMES = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}

# Whole ids up to this many times the rows are numbered through a table; sparser ones by sorting.
TABLE_PER_ROW = 8
TABLE_FLOOR = 1 << 24

CHUNK = 1 << 18  # rows that are looked up together

IDS = pa.dictionary(pa.int32(), pa.string())
PENDING = 1 << 20  # ids of blocks, at least, that are numbered together

TIME_SCALE = 10**6  # parts of a unit of time, in which times are kept where some have fractions of the unit

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Fields:
    """Which columns of a file hold what, and how they are written."""

    columns: dict[str, str]  # name in columns.py → name in the file
    whole_ids: bool = False  # ids are numbers: 01 and 1 are the same
    times: str = "whole"  # or "decimal" (8.8e8, 881250949.5), or "iso" (UTC unless it says)

    def without_ratings(self, unless: bool) -> "Fields":
        """Leave the ratings out, unless they are needed."""
        if unless:
            return self
        return replace(self, columns={name: column for name, column in self.columns.items() if name != RATING})


Block = dict[str, np.ndarray | pa.Array]  # name in columns.py → values; ids int64 numpy or arrow strings, dictionaries


class Ids:
    """Numbers raw ids that arrive block by block."""

    def __init__(self) -> None:
        self._whole = Growing(np.int32)
        self._codes = Growing(np.int32)
        self._known = pa.array([], IDS.value_type)  # in the order of their numbers
        self._pending: list[pa.DictionaryArray] = []

    def add(self, values: np.ndarray | pa.Array) -> None:
        """Whole numbers as a numpy array, anything else as arrow strings; one kind only in a file."""
        if isinstance(values, np.ndarray):
            if len(self._known) or self._pending:
                self.add(pa.array(values).cast(pa.string()))
                return
            if len(values) and int(values.max()) >= 2**31:
                self._whole.widen(np.int64)
            self._whole.add(values)
            return
        if len(self._whole):
            earlier, self._whole = self._whole.finish(), Growing(np.int32)
            self.add(pa.array(earlier).cast(pa.string()))
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        self._pending.append(values)
        # So seldom that known ids are not looked up again and again, so often that memory is of their order.
        if sum(len(block.dictionary) for block in self._pending) > max(PENDING, len(self._known)):
            self._number()

    def _number(self) -> None:
        """Number the ids of the blocks that are pending: those that are known keep their numbers, new ones follow."""
        known = pa.DictionaryArray.from_arrays(pa.array([], IDS.index_type), self._known)
        first, *blocks = pa.chunked_array([known, *self._pending]).unify_dictionaries().chunks
        self._known, self._pending = first.dictionary, []
        for block in blocks:
            self._codes.add(block.indices.to_numpy())

    def finish(self) -> tuple[np.ndarray, pa.Array]:
        """(n,) int32 codes in the order of the raw ids, and the raw ids as strings. Empties the object."""
        if len(self._whole):
            return _numbered(self._whole.finish())
        self._number()
        codes, raw = self._codes.finish(), self._known
        self._known = raw.slice(0, 0)
        order = sorted_order(raw)
        places = np.empty(len(raw), np.int32)
        places[order] = np.arange(len(raw), dtype=np.int32)
        return _looked_up(places, codes), raw.take(pa.array(order))


def sorted_order(raw_ids: pa.Array) -> np.ndarray:
    """The order that sorts raw ids, all different: as numbers when all of them are digits, as text otherwise."""
    digits = len(raw_ids) > 0 and pc.all(pc.match_substring_regex(raw_ids, WHOLE_NUMBER)).as_py()
    columns = {"text": raw_ids}
    if digits:
        columns = {"number": raw_ids.cast(pa.int64()), **columns}
    order: np.ndarray = pc.sort_indices(
        pa.table(columns), sort_keys=[(name, "ascending") for name in columns]
    ).to_numpy()
    return order


def _numbered(values: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    top = int(values.max(initial=0))
    if top >= max(TABLE_FLOOR, TABLE_PER_ROW * len(values)):
        distinct, codes = np.unique(values, return_inverse=True)
        return codes.astype(np.int32), pa.array(distinct).cast(pa.string())
    present = np.zeros(top + 1, bool)
    present[values] = True
    numbers = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return _looked_up(numbers, values), pa.array(np.flatnonzero(present)).cast(pa.string())


def _looked_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) int32 `table[values]`, in the memory of `values` where that is as wide."""
    if values.dtype != np.int32:
        return table[values]
    for start in range(0, len(values), CHUNK):
        # All values are in range; saying "clip" only saves looking.
        values[start : start + CHUNK] = table.take(values[start : start + CHUNK], mode="clip")
    return values


class Growing:
    """An array that values are added to. It grows in place, where joining blocks would hold everything twice."""

    def __init__(self, kind: type) -> None:
        self._values: np.ndarray = np.empty(CHUNK, kind)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def widen(self, kind: type) -> None:
        """Hold values of this kind from now on."""
        self._values = self._values.astype(kind, copy=False)

    def add(self, values: np.ndarray) -> None:
        """Put values at the end."""
        needed = self._size + len(values)
        if needed > len(self._values):
            self._values.resize(max(needed, len(self._values) * 5 // 4), refcheck=False)
        self._values[self._size : needed] = values
        self._size = needed

    def finish(self) -> np.ndarray:
        """The array, given away."""
        values, self._values = self._values, np.empty(0, self._values.dtype)
        values.resize(self._size, refcheck=False)
        self._size = 0
        return values


@dataclass
class Collector:
    """Gathers the rows of one file."""

    where: str  # names the file in messages
    rows: int = 0  # seen so far, malformed ones included
    _users: Ids = field(default_factory=Ids)
    _items: Ids = field(default_factory=Ids)
    _columns: dict[str, Growing] = field(default_factory=dict)
    _malformed: dict[str, Malformed] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """Rows that are all usable: users, items, and perhaps times with fractions, ratings, positions, parts."""
        kinds: dict[str, type] = {TIMESTAMP: np.int64, RATING: np.float32, POSITION: np.int64, SPLIT: np.int8}
        self._users.add(block[USER])
        self._items.add(block[ITEM])
        count = len(block[USER])
        if TIMESTAMP not in block:
            block = block | {TIMESTAMP: np.arange(self.rows, self.rows + count)}
        if FRACTION in block or FRACTION in self._columns:
            fractions = self._columns.setdefault(FRACTION, Growing(np.int32))
            fractions.add(np.zeros(len(self._columns.get(TIMESTAMP, ())) - len(fractions), np.int32))
            fractions.add(np.asarray(block.get(FRACTION, np.zeros(count))))
        for name, kind in kinds.items():
            if name in block:
                self._columns.setdefault(name, Growing(kind)).add(np.asarray(block[name]))
        self.rows += count

    def reject(self, kind: str, lines: Sequence[int] | np.ndarray) -> None:
        """Count rows that cannot be used.

        Raises:
            SeqbenchError: so much is malformed that the file must be another one.
        """
        if not len(lines):
            return
        earlier = self._malformed.get(kind, Malformed(kind, 0, ()))
        shown = (*earlier.lines, *(int(line) for line in lines[:SHOWN_LINES]))[:SHOWN_LINES]
        self._malformed[kind] = Malformed(kind, earlier.rows + len(lines), shown)
        self.rows += len(lines)

    def check_hope(self) -> None:
        """Stop early on a file that is plainly of another kind.

        Raises:
            SeqbenchError: it is.
        """
        if self.rows >= HOPELESS_ROWS and self._bad() > HOPELESS_SHARE * self.rows:
            raise self._refused(f"of the first {self.rows:,} rows")

    def finish(self) -> Log:
        """All rows, with ids numbered in the order of the raw ids.

        Raises:
            SeqbenchError: the file has no rows, or is malformed past MALFORMED_LIMIT.
        """
        if self.rows == 0:
            raise empty(self.where)
        if self._bad() > MALFORMED_LIMIT * self.rows:
            raise self._refused(f"of {self.rows:,} rows")
        users, raw_users = self._users.finish()
        items, raw_items = self._items.finish()
        columns = {name: values.finish() for name, values in self._columns.items()}
        fractions = columns.pop(FRACTION, None)
        # Times so large are microseconds or finer: their fractions do not fit, and say nothing.
        scaled = fractions is not None and int(columns[TIMESTAMP].max()) < np.iinfo(np.int64).max // TIME_SCALE
        if scaled:
            columns[TIMESTAMP] *= TIME_SCALE
            columns[TIMESTAMP] += fractions
        return Log(
            {USER: users, ITEM: items, **columns},
            users=raw_users,
            items=raw_items,
            time_scale=TIME_SCALE if scaled else 1,
            rows=self.rows,
            malformed=tuple(self._malformed.values()),
        )

    def _bad(self) -> int:
        return sum(entry.rows for entry in self._malformed.values())

    def _refused(self, words: str) -> SeqbenchError:
        kinds = "; ".join(map(str, self._malformed.values()))
        return SeqbenchError(
            f"{self.where}: {self._bad():,} {words} are malformed ({kinds}). "
            f"At most {MALFORMED_LIMIT:.1%} is tolerated.",
            hint="Repair those lines or fetch the file again, then repeat with --raw PATH.",
        )


def empty(where: str) -> SeqbenchError:
    """The error for a raw file without rows."""
    return SeqbenchError(
        f"{where} is empty: it has no rows.", hint="Fetch it again, or give another file with --raw PATH."
    )


def judge(texts: dict[str, pa.Array], fields: Fields, lines: np.ndarray, collector: Collector) -> None:
    """Add the usable rows of a block whose values are text, and reject the others, each for one reason.

    Args:
        texts: name in columns.py → strings; null where the bytes are not UTF-8.
        lines: (n,) line number of each row.
    """
    blank = {name: _mask(pc.equal(values, "")) for name, values in texts.items()}
    reasons = {
        "blank line": np.logical_and.reduce(list(blank.values())),
        "empty user id": blank[USER],
        "empty item id": blank[ITEM],
        "not UTF-8": _mask(texts[USER].is_null()) | _mask(texts[ITEM].is_null()),
    }
    values: Block = {name: texts[name] for name in (USER, ITEM)}
    if fields.whole_ids:
        for name, word in ((USER, "user"), (ITEM, "item")):
            values[name], usable = _whole(texts[name])
            reasons[f"{word} id is not a whole number"] = ~usable
    if TIMESTAMP in texts:
        words = {"whole": "a whole number", "decimal": "a number", "iso": "a date"}[fields.times]
        times, usable = {"whole": _whole, "decimal": _decimal, "iso": _iso}[fields.times](texts[TIMESTAMP])
        values |= whole_and_fraction(times)
        reasons[f"timestamp is not {words}"] = ~usable
    if RATING in texts:
        values[RATING], usable = _rating(texts[RATING])
        reasons["rating is not a number"] = ~usable
    if POSITION in texts:
        values[POSITION], usable = _whole(texts[POSITION])
        reasons["position is not a whole number"] = ~usable
    if SPLIT in texts:
        values[SPLIT], usable = parts_of(texts[SPLIT])
        reasons["split is not train, valid or test"] = ~usable
    usable = np.ones(len(lines), bool)
    for kind, mask in reasons.items():
        bad = np.flatnonzero(mask & usable)
        usable[bad] = False
        collector.reject(kind, lines[bad])
    if usable.any():
        keep = pa.array(usable)
        collector.add(
            {
                name: column[usable] if isinstance(column, np.ndarray) else column.filter(keep)
                for name, column in values.items()
            }
        )


def whole_and_fraction(times: np.ndarray) -> Block:
    """Split times (n,) into whole units, int64, and fractions, int32 in parts of TIME_SCALE, where there are any."""
    whole = times.astype(np.int64, copy=False)
    if times.dtype == np.int64 or (times == whole).all():
        return {TIMESTAMP: whole}
    return {TIMESTAMP: whole, FRACTION: np.rint((times - whole) * TIME_SCALE).astype(np.int32)}


def parts_of(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Words for the parts of a split → (n,) index into PARTS, and (n,) whether it is one."""
    encoded = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
    words = [str(word).strip().lower() for word in encoded.dictionary.to_pylist()]
    table = np.array([_PART_NAMES.get(word, -1) for word in words] or [-1], np.int8)
    # A null, which has no index, becomes the one before the first: none of the words.
    marks = np.append(table, np.int8(-1))[pc.fill_null(encoded.indices, -1).to_numpy()]
    return marks, marks >= 0


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask


def _cast(texts: pa.Array, pattern: str, kind: pa.DataType) -> tuple[np.ndarray, np.ndarray]:
    """Values where the text matches the pattern, 0 elsewhere; and where it does."""
    texts = pc.utf8_trim_whitespace(texts)
    usable = _mask(pc.match_substring_regex(texts, pattern))
    values: np.ndarray = pc.if_else(pa.array(usable), texts, "0").cast(kind).to_numpy()
    return values, usable


def _whole(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    return _cast(texts, WHOLE_NUMBER, pa.int64())


def _decimal(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    values, usable = _cast(texts, DECIMAL_NUMBER, pa.float64())
    usable &= values <= LARGEST_EXACT
    return np.where(usable, values, 0), usable


def _rating(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    values, usable = _cast(texts, r"^-?[0-9]{1,15}(\.[0-9]*)?$", pa.float64())
    return values.astype(np.float32), usable


def _iso(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    seconds = [_iso_seconds(text) for text in texts.to_pylist()]
    usable = np.array([value is not None for value in seconds], bool)
    return np.array([value or 0 for value in seconds], np.float64), usable


def _iso_seconds(text: str | None) -> float | None:
    """Seconds since 1970 of 2010-10-19T23:55:27Z, 2010-10-19 23:55:27+02:00, 2010-10-19; UTC if it does not say."""
    try:
        moment = datetime.datetime.fromisoformat((text or "").strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return (moment - EPOCH) / datetime.timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None


def iso_seconds(texts: pa.Array) -> np.ndarray:
    """(n,) float64 seconds since 1970 of ISO times that are all in UTC.

    Raises:
        pa.ArrowInvalid: one of them is not; `judge` finds out which.
    """
    moments = pc.utf8_rtrim(texts, "Z").cast(pa.timestamp("us"))
    seconds: np.ndarray = moments.cast(pa.int64()).to_numpy() / 1_000_000
    return seconds
