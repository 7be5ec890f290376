"""Times as raw files write them: numbers to the last digit, and dates in the forms that public data sets use.

A time is split into whole units, int64, and what is left, int32 in billionths of a unit (0 … 999,999,999), so that
neither nanoseconds nor the fractions of a second go through a float that cannot hold them. Dates count seconds since
1970 in UTC, which is assumed where nothing is said.

Shapes: n rows.
"""

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BILLION = 10**9
LARGEST_EXACT = 2**53  # whole numbers up to here survive a float64

# What stands for no value: what pandas, R, SQL and JavaScript write.
MISSING = frozenset({"", "nan", "nat", "na", "n/a", "<na>", "null", "none", "nil", r"\n", "undefined"})

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

WHOLE = r"^[+-]?[0-9]{1,19}$"
DECIMAL = r"^(?P<sign>[+-]?)(?P<whole>[0-9]{0,18})(?:\.(?P<rest>[0-9]*))?$"
SCIENTIFIC = r"^[+-]?(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)[eE][+-]?[0-9]{1,2}$"

_CLOCK = r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<rest>[0-9]+))?)?"
_ZONE = r" ?(?P<zone>Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_HALF = r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?"
_DAY_NAME = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? )?"
_MONTH_NAME = r"(?P<name>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Form:
    """One way to write a time."""

    title: str  # for people: an example
    pattern: str = ""  # with the groups year, month (or name), day, and hour and so on; empty for numbers
    kind: str = "date"  # or "whole": whole numbers only, or "number": any


WHOLE_NUMBERS = Form("1300000000", kind="whole")
NUMBERS = Form("1300000000.5", kind="number")
ISO = Form(
    "2011-03-13 07:06:40Z",
    rf"^(?P<year>[0-9]{{4}})-(?P<month>[0-9]{{2}})-(?P<day>[0-9]{{2}})(?:[T ]{_CLOCK}{_ZONE})?$",
)
YEAR_FIRST = Form(
    "2011/03/13 07:06:40",
    rf"^(?P<year>[0-9]{{4}})[/.](?P<month>[0-9]{{1,2}})[/.](?P<day>[0-9]{{1,2}})(?:[T ,]+{_CLOCK}{_ZONE})?$",
)
COMPACT = Form("20110313", r"^(?P<year>(?:19|20)[0-9]{2})(?P<month>[01][0-9])(?P<day>[0-3][0-9])$")
COMPACT_TIME = Form(
    "20110313070640",
    r"^(?P<year>(?:19|20)[0-9]{2})(?P<month>[01][0-9])(?P<day>[0-3][0-9])[T ]?"
    r"(?P<hour>[0-2][0-9])(?P<minute>[0-5][0-9])(?P<second>[0-5][0-9])(?P<zone>Z)?$",
)
CTIME = Form(
    "Sun Mar 13 07:06:40 +0000 2011",
    rf"^{_DAY_NAME}{_MONTH_NAME} +(?P<day>[0-9]{{1,2}}) {_CLOCK}{_ZONE} (?P<year>[0-9]{{4}})$",
)
DAY_NAME_MONTH = Form(
    "13 Mar 2011 07:06:40",
    rf"^{_DAY_NAME}(?P<day>[0-9]{{1,2}})[ -]{_MONTH_NAME}[ -](?P<year>[0-9]{{4}})(?:[ ,]+{_CLOCK}{_HALF}{_ZONE})?$",
)
NAME_MONTH_DAY = Form(
    "Mar 13, 2011 7:06:40 AM",
    rf"^{_DAY_NAME}{_MONTH_NAME} (?P<day>[0-9]{{1,2}}),? (?P<year>[0-9]{{4}})(?:[ ,]+(?:at )?{_CLOCK}{_HALF}{_ZONE})?$",
)
# Only in America are hours halved and months first; so written, they are no riddle.
AMERICAN = Form(
    "3/13/2011 7:06:40 AM",
    r"^(?P<month>[0-9]{1,2})/(?P<day>[0-9]{1,2})/(?P<year>[0-9]{4}),? "
    rf"{_CLOCK} ?(?P<half>[AaPp])\.?[Mm]\.?{_ZONE}$",
)


def _numbered(first: str, second: str) -> str:
    day = rf"(?P<{first}>[0-9]{{1,2}})[/.-](?P<{second}>[0-9]{{1,2}})[/.-](?P<year>[0-9]{{4}})"
    return rf"^{day}(?:[T ,]+{_CLOCK}{_ZONE})?$"


MONTH_FIRST = Form("3/13/2011 7:06", _numbered("month", "day"))
DAY_FIRST = Form("13.3.2011 7:06", _numbered("day", "month"))

PLAIN = (ISO, YEAR_FIRST, CTIME, DAY_NAME_MONTH, NAME_MONTH_DAY, AMERICAN)
COMPACTS = (COMPACT, COMPACT_TIME)
EITHER = (MONTH_FIRST, DAY_FIRST)
TIME_OF_DAY = re.compile(rf"^{_CLOCK}{_HALF}$")

READ = (
    "Times are read as numbers (seconds, milliseconds, … since 1970) and as dates such as "
    + ", ".join(form.title for form in PLAIN)
    + ", 3/13/2011 where a day after the 12th tells days from months. "
    "Convert others first, for example with pandas.to_datetime(column, format=…)."
)


class AmbiguousDates(Exception):
    """Nothing so far tells the days of dates such as 3/4/2011 from their months."""


def recognise(values: Iterable[str], *, day_first: bool | None = None) -> Form | None:
    """Return the form of the first value that is a time; None if none is.

    Args:
        values: some of a column, in its order.
        day_first: how dates such as 3/4/2011 are read, where the values do not tell.

    Raises:
        AmbiguousDates: they do not tell, and `day_first` does not either.
    """
    found = [text for value in values if (text := value.strip()).lower() not in MISSING]
    for text in found:
        if re.fullmatch(r"[0-9]+", text) and (form := next((f for f in COMPACTS if _fits(text, f)), None)):
            numbers = [other for other in found if re.fullmatch(r"[0-9]+", other)]
            return form if parse(pa.array(numbers), form)[2].all() else NUMBERS
        if re.match(WHOLE, text) or (re.match(DECIMAL, text) and text[-1] != ".") or re.match(SCIENTIFIC, text):
            return NUMBERS
        if form := next((form for form in PLAIN if _fits(text, form)), None):
            return form
        if any(_fits(text, form) for form in EITHER):
            wrong = [int((~parse(pa.array(found), form)[2]).sum()) for form in EITHER]
            if wrong[0] != wrong[1]:
                return EITHER[wrong.index(min(wrong))]
            if day_first is None:
                raise AmbiguousDates
            return EITHER[day_first]
    return None


def _fits(text: str, form: Form) -> bool:
    return bool(parse(pa.array([text]), form)[2][0])


def parse(texts: pa.Array, form: Form) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]:
    """Read times that are written in one form.

    Args:
        texts: (n,) strings without outer blanks; null is no time.

    Returns:
        Whole units (n,), billionths (n,), and whether a text is a time (n,); 0 and 0 where it is none.
    """
    if form.kind == "whole":
        return _whole(texts)
    if form.kind == "number":
        return _numbers(texts)
    return _dates(texts, form)


Parsed = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]


def whole_numbers(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Read whole numbers that int64 holds; 0 where there is none. Returns them and where they are."""
    usable = _mask(pc.match_substring_regex(texts, WHOLE))
    digits = pc.if_else(pa.array(usable), pc.utf8_ltrim(texts, "+"), "0")
    try:
        return digits.cast(pa.int64()).to_numpy(), usable
    except pa.ArrowInvalid:  # 19 digits may be too many
        numbers = [int(each) for each in digits.to_pylist()]
        fits = np.array([-(2**63) <= number < 2**63 for number in numbers], bool)
        return np.array(
            [number if ok else 0 for number, ok in zip(numbers, fits, strict=True)], np.int64
        ), usable & fits


def _whole(texts: pa.Array) -> Parsed:
    values, usable = whole_numbers(texts)
    return values, np.zeros(len(values), np.int32), usable


def _numbers(texts: pa.Array) -> Parsed:
    values, rest, usable = _whole(texts)
    others = np.flatnonzero(~usable)
    if not len(others):
        return values, rest, usable
    values = values.copy()
    written = texts.take(pa.array(others))
    split = pc.extract_regex(written, DECIMAL)
    decimal = _mask(split.is_valid()) & _mask(pc.match_substring_regex(written, "[0-9]"))
    negative = _mask(pc.equal(_field(split, "sign"), "-"))
    whole = _integers(_field(split, "whole"))
    values[others], rest[others] = _signed(negative, whole, _billionths(_field(split, "rest")))
    usable[others] = decimal
    scientific = _mask(pc.match_substring_regex(written, SCIENTIFIC))
    for at, text in zip(others[scientific], written.filter(pa.array(scientific)).to_pylist(), strict=True):
        number = float(text)
        if abs(number) <= LARGEST_EXACT:
            (values[at],), (rest[at],) = split_floats(np.array([number]))
            usable[at] = True
    values[~usable] = rest[~usable] = 0
    return values, rest, usable


def split_floats(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Split finite floats into whole units and billionths, as exactly as a float of this size is: to a microsecond
    for the seconds of our era, to a nanosecond for small numbers."""
    whole = np.floor(values)
    rest = values - whole
    fine = np.abs(values) < LARGEST_EXACT / BILLION
    billionths = np.where(fine, np.rint(rest * BILLION), np.rint(rest * 1e6) * 1000).astype(np.int64)
    carried = billionths >= BILLION
    return whole.astype(np.int64) + carried, np.where(carried, 0, billionths).astype(np.int32)


def _dates(texts: pa.Array, form: Form) -> Parsed:
    split = pc.extract_regex(texts, form.pattern)
    usable = _mask(split.is_valid())
    names = {field.name for field in split.type}

    def number(name: str) -> NDArray[np.int64]:
        return _integers(_field(split, name)) if name in names else np.zeros(len(texts), np.int64)

    year, day = number("year"), number("day")
    if "name" in names:
        places = pc.index_in(_field(split, "name"), pa.array(_MONTHS))
        month = pc.fill_null(places, -1).to_numpy() + 1
    else:
        month = number("month")
    hour, minute, second = number("hour"), number("minute"), number("second")
    if "half" in names:
        half = pc.utf8_lower(_field(split, "half"))
        halved = _mask(pc.not_equal(half, ""))
        usable &= ~halved | ((hour >= 1) & (hour <= 12))
        hour = np.where(halved, hour % 12 + 12 * _mask(pc.equal(half, "p")), hour)
    usable &= (month >= 1) & (month <= 12) & (day >= 1) & (hour <= 23) & (minute <= 59) & (second <= 59) & (year >= 1)
    months = np.where(usable, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    usable &= day <= ((months + 1).astype("datetime64[D]") - first).astype(np.int64)
    seconds = (first.astype(np.int64) + day - 1) * 86_400 + hour * 3600 + minute * 60 + second
    if "zone" in names:
        seconds -= _offsets(_field(split, "zone"))
    rest = _billionths(_field(split, "rest")).copy() if "rest" in names else np.zeros(len(texts), np.int64)
    if form is ISO:  # other ways that the standard allows
        for at in np.flatnonzero(~usable):
            if (moment := _iso(texts[int(at)].as_py())) is not None:
                seconds[at], rest[at] = moment
                usable[at] = True
    return np.where(usable, seconds, 0), np.where(usable, rest, 0).astype(np.int32), usable


def _iso(text: str | None) -> tuple[int, int] | None:
    if text is None or not re.match(r"[0-9]{4}-?(W?[0-9]{2})", text) or re.fullmatch(r"[0-9]+", text):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
        since = moment.replace(tzinfo=moment.tzinfo or datetime.UTC) - EPOCH
    except (ValueError, OverflowError):
        return None
    return since.days * 86_400 + since.seconds, since.microseconds * 1000


def iso_in_utc(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
    """Read ISO times that are all in UTC and at most to the microsecond, which is quick; None if one is not."""
    try:
        micros = pc.utf8_rtrim(texts, "Z").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    whole, rest = np.divmod(micros, 10**6)
    return whole, (rest * 1000).astype(np.int32)


def _offsets(zones: pa.Array) -> NDArray[np.int64]:
    """Seconds that a zone is ahead of UTC: "+02:00", "-0700", "+02", "Z", "UTC", ""."""
    encoded = zones.dictionary_encode()
    table = []
    for zone in encoded.dictionary.to_pylist():
        digits = re.sub(r"[^0-9]", "", zone or "").ljust(4, "0")
        ahead = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        table.append(-ahead if (zone or "").startswith("-") else ahead)
    result: NDArray[np.int64] = np.append(np.array(table, np.int64), 0)[pc.fill_null(encoded.indices, -1).to_numpy()]
    return result


def _signed(
    negative: NDArray[np.bool_], whole: NDArray[np.int64], rest: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole units and billionths of sign, digits before and digits after the point; the rest is never negative."""
    borrowed = negative & (rest > 0)
    return np.where(negative, -whole - borrowed, whole), np.where(borrowed, BILLION - rest, rest)


def _billionths(digits: pa.Array) -> NDArray[np.int64]:
    nine = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.fill_null(digits, ""), 9, "0"), 0, 9)
    result: NDArray[np.int64] = nine.cast(pa.int64()).to_numpy()
    return result


def _integers(digits: pa.Array) -> NDArray[np.int64]:
    filled = pc.fill_null(digits, "")
    result: NDArray[np.int64] = pc.if_else(pc.equal(filled, ""), "0", filled).cast(pa.int64()).to_numpy()
    return result


def _field(split: pa.StructArray, name: str) -> pa.Array:
    return pc.struct_field(split, name)


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask


def in_seconds(values: Sequence[str]) -> NDArray[np.float64] | None:
    """Return some times of a column in seconds since 1970, their unit guessed, to compare columns; NaN is no time.

    None if the column has no times at all.
    """
    try:
        form = recognise(values, day_first=False)
    except AmbiguousDates:
        return None
    if form is None:
        return None
    whole, rest, usable = parse(pa.array([value.strip() for value in values], pa.string()), form)
    seconds = np.where(usable, whole + rest / BILLION, np.nan)
    if form.kind != "date":
        seconds /= UNIT_PARTS[unit_of(whole[usable])]
    return seconds


# Times of our era: seconds have 9 or 10 digits, milliseconds 12 or 13, and so on.
UNITS = ((10**11, "seconds"), (10**14, "milliseconds"), (10**17, "microseconds"), (2**63, "nanoseconds"))
UNIT_PARTS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
ERA = (6 * 10**8, 41 * 10**8)  # seconds from 1989 to 2099


MEDIAN_ROWS = 1 << 24  # a median of so many tells the size of all


def unit_of(times: NDArray[np.int64]) -> str:
    """Return the unit that most of the numbers (n,) must have, by their size."""
    middle = abs(int(np.median(times[:: 1 + len(times) // MEDIAN_ROWS]))) if len(times) else 0
    return next(unit for limit, unit in UNITS if middle < limit)


def units_of(times: NDArray[np.int64]) -> dict[str, int]:
    """Count the numbers (n,) that lie in our era, by the unit that they would have; none if all have the same."""
    low, high = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    if unit_of(np.array([low])) == unit_of(np.array([high])):
        return {}
    counts = {
        unit: int(((times >= ERA[0] * parts) & (times < ERA[1] * parts)).sum()) for unit, parts in UNIT_PARTS.items()
    }
    return {unit: count for unit, count in counts.items() if count}
