"""What all parsers share: gathering columns block by block, numbering ids, and judging rows that cannot be used.

Shapes: n rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqbench.columns import ITEM, POSITION, RATING, SPLIT, TIMESTAMP, USER
from seqbench.data import spill
from seqbench.data.log import Log, Malformed
from seqbench.data.parsers.times import BILLION, MISSING, READ, WHOLE_NUMBERS, Form, parse, whole_numbers
from seqbench.errors import SeqbenchError

WHOLE_ID = r"^[0-9]{1,18}$"  # fits int64
LARGEST_ID = 10**18 - 1
RATING_NUMBER = r"^[+-]?([0-9]{1,15}(\.[0-9]*)?|\.[0-9]+)$"

# A cut download damages its last line, an edited copy a handful. Past one row in a thousand the file is not
# what it claims to be, and counting on with the rest would give figures that nobody can reproduce.
MALFORMED_LIMIT = 0.001

# A file of another kind is not read to its end: past this many rows, one in ten malformed is enough to stop.
HOPELESS_ROWS = 100_000
HOPELESS_SHARE = 0.1

SHOWN_LINES = 5

# Why a time is rejected, by the kind of its form.
NOT_A_TIME = {
    "whole": "timestamp is not a whole number",
    "number": "timestamp is not a number",
    "date": "timestamp is not a date",
}

FRACTION = "fraction"  # of a block: billionths of a unit that a time has beyond its whole units

_PART_NAMES = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}

# Whole ids up to this many times the rows are numbered through a table; sparser ones by sorting.
TABLE_PER_ROW = 8
TABLE_FLOOR = 1 << 24

CHUNK = 1 << 18  # rows that are looked up together
RELEASED = 32  # chunks of files that stay in memory

IDS = pa.dictionary(pa.int32(), pa.string())
PENDING = 1 << 20  # ids of blocks, at least, that are numbered together
PENDING_ROWS = 1 << 24  # and no more rows than that

# In what parts of a unit times are kept where some have fractions of it: in the first of these that loses nothing.
SCALES = (10**6, 10**9, 10**3)

# Around an id these mean nothing: blanks of all kinds, and what no editor shows.
BLANKS = "".join([*filter(str.isspace, map(chr, range(0x3001))), "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff"])


@dataclass(frozen=True)
class Fields:
    """Which columns of a file hold what, and how they are written."""

    columns: dict[str, str]  # name in columns.py → name in the file
    whole_ids: bool = False  # ids are numbers: 01 and 1 are the same
    times: Form = WHOLE_NUMBERS
    comma: bool = False  # numbers have a comma where others have a point
    header: dict[str, str] = field(default_factory=dict)  # name in columns.py → the title over its column, if any

    def without_ratings(self, unless: bool) -> "Fields":
        """Leave the ratings out, unless they are needed."""
        if unless:
            return self
        return replace(
            self,
            columns={name: column for name, column in self.columns.items() if name != RATING},
            header={name: title for name, title in self.header.items() if name != RATING},
        )


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
        ids, rows = (sum(map(len, parts)) for parts in ([b.dictionary for b in self._pending], self._pending))
        if ids > max(PENDING, len(self._known)) or rows > PENDING_ROWS:
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
        if (whole := _whole_floats(raw)) is not None:
            # 7.0 is what a table makes of 7 where an id is missing elsewhere in the column.
            numbered = whole.dictionary_encode()
            codes = _looked_up(numbered.indices.to_numpy(), codes)
            raw = numbered.dictionary
        order = sorted_order(raw)
        places = np.empty(len(raw), np.int32)
        places[order] = np.arange(len(raw), dtype=np.int32)
        return _looked_up(places, codes), raw.take(pa.array(order))


def sorted_order(raw_ids: pa.Array) -> np.ndarray:
    """The order that sorts raw ids, all different: as numbers when all of them are digits, as text otherwise."""
    digits = len(raw_ids) > 0 and pc.all(pc.match_substring_regex(raw_ids, WHOLE_ID)).as_py()
    columns = {"text": raw_ids}
    if digits:
        columns = {"number": raw_ids.cast(pa.int64()), **columns}
    order: np.ndarray = pc.sort_indices(
        pa.table(columns), sort_keys=[(name, "ascending") for name in columns]
    ).to_numpy()
    return order


def _whole_floats(raw_ids: pa.Array) -> pa.Array | None:
    """Return ids such as 7.0 without their points, if all ids of the column are whole numbers and some have one."""
    if not len(raw_ids) or not pc.any(pc.ends_with(raw_ids, ".0")).as_py():
        return None
    if not pc.all(pc.match_substring_regex(raw_ids, r"^[0-9]{1,18}(\.0+)?$")).as_py():
        return None
    return pc.replace_substring_regex(raw_ids, r"\.0+$", "")


def _numbered(values: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    top = int(values.max(initial=0))
    if top >= max(TABLE_FLOOR, TABLE_PER_ROW * len(values)):
        if not spill.is_spilled(values):
            distinct, codes = np.unique(values, return_inverse=True)
            return codes.astype(np.int32), pa.array(distinct).cast(pa.string())
        distinct, codes = values[:0], spill.empty_like(values, len(values), np.int32)
        step = spill.rows_at_once()
        for start in range(0, len(values), step):
            distinct = np.union1d(distinct, values[start : start + step])
        for start in range(0, len(values), step):
            codes[start : start + step] = np.searchsorted(distinct, values[start : start + step])
        return codes, pa.array(np.asarray(distinct)).cast(pa.string())
    present = np.zeros(top + 1, bool)
    for start in range(0, len(values), CHUNK):
        present[values[start : start + CHUNK]] = True
        if start % (RELEASED * CHUNK) == 0:
            spill.release([values])
    numbers = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return _looked_up(numbers, values), pa.array(np.flatnonzero(present)).cast(pa.string())


def _looked_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) int32 `table[values]`, in the memory of `values` where that is as wide."""
    found = values if values.dtype == np.int32 else spill.empty_like(values, len(values), np.int32)
    for start in range(0, len(values), CHUNK):
        # All values are in range; saying "clip" only saves looking.
        found[start : start + CHUNK] = table.take(values[start : start + CHUNK], mode="clip")
        if start % (RELEASED * CHUNK) == 0:
            spill.release((values, found))
    return found


class Growing:
    """An array that values are added to. It grows in place, where joining blocks would hold everything twice.

    Past what `spill.spilling` allows it grows in a file.
    """

    def __init__(self, kind: type) -> None:
        self._values: np.ndarray = np.empty(CHUNK, kind)
        self._size = 0
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return self._size

    def widen(self, kind: type) -> None:
        """Hold values of this kind from now on."""
        if self._file is not None and self._values.dtype != kind:
            narrow = self._mapped()
            self._file, self._size = spill.new_file(), 0
            self._values = np.empty(0, kind)
            for start in range(0, len(narrow), CHUNK):
                self.add(narrow[start : start + CHUNK])
        self._values = self._values.astype(kind, copy=False)

    def add(self, values: np.ndarray) -> None:
        """Put values at the end."""
        needed = self._size + len(values)
        if self._file is None and spill.too_many(needed):
            self._file = spill.new_file()
            spill.append(self._file, self._values[: self._size])
            self._values = self._values[:0].copy()
        if self._file is not None:
            spill.append(self._file, values.astype(self._values.dtype, copy=False))
            self._size = needed
            return
        if needed > len(self._values):
            self._values.resize(max(needed, len(self._values) * 5 // 4), refcheck=False)
        self._values[self._size : needed] = values
        self._size = needed

    def finish(self) -> np.ndarray:
        """The array, given away."""
        if self._file is not None:
            spilled, self._file, self._size = self._mapped(), None, 0
            return spilled
        values, self._values = self._values, np.empty(0, self._values.dtype)
        values.resize(self._size, refcheck=False)
        self._size = 0
        return values

    def _mapped(self) -> np.ndarray:
        assert self._file is not None
        return spill.mapped(self._file, self._size, self._values.dtype)


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
        scale = scaled(columns[TIMESTAMP], columns.pop(FRACTION, None))
        return Log(
            {USER: users, ITEM: items, **columns},
            users=raw_users,
            items=raw_items,
            time_scale=scale,
            rows=self.rows,
            malformed=tuple(self._malformed.values()),
        )

    def _bad(self) -> int:
        return sum(entry.rows for entry in self._malformed.values())

    def _refused(self, words: str) -> SeqbenchError:
        kinds = "; ".join(map(str, self._malformed.values()))
        times = any(kind in NOT_A_TIME.values() for kind in self._malformed)
        return SeqbenchError(
            f"{self.where}: {self._bad():,} {words} are malformed ({kinds}). "
            f"At most {MALFORMED_LIMIT:.1%} is tolerated.",
            hint=f"{f'{READ} Or repair' if times else 'Repair'} those lines or fetch the file again, then repeat with "
            "--raw PATH.",
        )


def empty(where: str) -> SeqbenchError:
    """The error for a raw file without rows."""
    return SeqbenchError(
        f"{where} is empty: it has no rows.", hint="Fetch it again, or give another file with --raw PATH."
    )


def judge(
    texts: dict[str, pa.Array],
    fields: Fields,
    lines: NDArray[np.int64],
    collector: Collector,
    blank_rows: NDArray[np.bool_] | None = None,
) -> None:
    """Add the usable rows of a block whose values are text, and reject the others, each for one reason.

    Blank rows, and the header where files were joined, are passed over.

    Args:
        texts: name in columns.py → strings; null where the bytes are not UTF-8.
        lines: (n,) line number of each row.
        blank_rows: (n,) whether a row holds nothing in any column.
    """
    texts = {name: pc.utf8_trim(values, BLANKS) for name, values in texts.items()}
    blank = {name: _mask(pc.equal(values, "")) for name, values in texts.items()}
    passed = np.zeros(len(lines), bool) if blank_rows is None else blank_rows
    if fields.header:
        passed = passed | np.logical_and.reduce(
            [_mask(pc.equal(texts[name], title)) for name, title in fields.header.items()]
        )
    if fields.comma:
        for name in (TIMESTAMP, RATING):
            if name in texts:
                texts[name] = pc.replace_substring_regex(texts[name], r"^([^,]*),([^,]*)$", r"\1.\2")
    reasons = {
        "empty user id": blank[USER],
        "empty item id": blank[ITEM],
        "not UTF-8": _mask(texts[USER].is_null()) | _mask(texts[ITEM].is_null()),
    }
    values: Block = {name: texts[name] for name in (USER, ITEM)}
    if fields.whole_ids:
        for name, word in ((USER, "user"), (ITEM, "item")):
            values[name], usable = _id_numbers(texts[name])
            reasons[f"{word} id is not a whole number"] = ~usable
    if TIMESTAMP in texts:
        values[TIMESTAMP], fractions, usable = parse(texts[TIMESTAMP], fields.times)
        if fractions.any():
            values[FRACTION] = fractions
        reasons["no timestamp"] = _mask(pc.is_in(pc.utf8_lower(texts[TIMESTAMP]), pa.array(sorted(MISSING))))
        reasons[NOT_A_TIME[fields.times.kind]] = ~usable
    if RATING in texts:
        values[RATING], usable = _ratings(texts[RATING])
        reasons["rating is not a number"] = ~usable
    if POSITION in texts:
        values[POSITION], usable = whole_numbers(texts[POSITION])
        reasons["position is not a whole number"] = ~usable
    if SPLIT in texts:
        values[SPLIT], usable = parts_of(texts[SPLIT])
        reasons["split is not train, valid or test"] = ~usable
    usable = ~passed
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


def scaled(times: NDArray[np.int64], fractions: NDArray[np.int32] | None) -> int:
    """Multiply times (n,) in place, and add their fractions (n,) in billionths, so that nothing is lost that fits.

    Returns:
        What they were multiplied with.
    """
    if fractions is None or not fractions.any():
        return 1
    parts = [slice(start, start + CHUNK) for start in range(0, len(times), CHUNK)]
    largest = max(abs(int(times.max())), abs(int(times.min()))) + 1
    fitting = [scale for scale in SCALES if largest * scale < 2**63]
    lossless = [scale for scale in fitting if not any((fractions[at] % (BILLION // scale)).any() for at in parts)]
    scale = next(iter(lossless or fitting), 1)
    for at in parts:
        times[at] *= scale
        times[at] += fractions[at] // (BILLION // scale)
    return scale


def parts_of(texts: pa.Array) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Words for the parts of a split → (n,) index into PARTS, and (n,) whether it is one."""
    encoded = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
    words = [str(word).strip().lower() for word in encoded.dictionary.to_pylist()]
    table = np.array([_PART_NAMES.get(word, -1) for word in words] or [-1], np.int8)
    # A null, which has no index, becomes the one before the first: none of the words.
    marks = np.append(table, np.int8(-1))[pc.fill_null(encoded.indices, -1).to_numpy()]
    return marks, marks >= 0


def trimmed(values: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return ids without the blanks around them."""
    letters = values.dictionary.buffers()[2]
    if letters is not None:
        codes = np.frombuffer(letters, np.uint8)
        if not len(codes) or (codes.min() > ord(" ") and codes.max() < 0x80):
            return values  # which is the rule, and seen at once
    ids = pc.utf8_trim(values.dictionary, BLANKS)
    if ids.equals(values.dictionary):
        return values
    return ids.take(values.indices).dictionary_encode()


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask


def _id_numbers(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    usable = _mask(pc.match_substring_regex(texts, WHOLE_ID))
    return pc.if_else(pa.array(usable), texts, "0").cast(pa.int64()).to_numpy(), usable


def _ratings(texts: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    usable = _mask(pc.match_substring_regex(texts, RATING_NUMBER))
    numbers = pc.if_else(pa.array(usable), pc.utf8_ltrim(texts, "+"), "0").cast(pa.float64()).to_numpy()
    return numbers.astype(np.float32), usable
