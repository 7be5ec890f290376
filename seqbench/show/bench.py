"""What `seqbench bench` prints, and the JSON that has everything."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from seqbench.device import title
from seqbench.environment import describe
from seqbench.measuring.bench import Figure, Request
from seqbench.results.records import Sharing
from seqbench.show import footnotes
from seqbench.show.numbers import BYTES, PLAIN, Scale, choose_unit, decimals_for, fixed, significant
from seqbench.show.tables import columns

SCHEMA_VERSION = 1
MISSING = "–"
COUNTED = ("_bytes", "bound_ms")  # names that end so are of what is the same on a busy machine
# Names of values: how they end says what they are in.
SCALES: dict[str, Scale] = {"_bytes": BYTES, "_flops": PLAIN, "parameters": PLAIN, "_without_items": PLAIN}


def figures_table(request: Request, figures: Sequence[Figure]) -> Iterator[RenderableType]:
    """Yield a table for each quantity, then notes on what was not quiet or not measured."""
    yield Text(f"{title(request.device)}; {request.items:,} items, random weights, {request.precision}")
    notes: list[str] = []
    for quantity in dict.fromkeys(figure.quantity for figure in figures):
        yield Text()
        yield _table(request, quantity, [figure for figure in figures if figure.quantity == quantity], notes)
    yield from (Text(f"[{index}] {note}") for index, note in enumerate(notes, 1))


def document(quantity: str, request: Request, figures: Sequence[Figure], shared: Sharing) -> dict[str, Any]:
    """Return everything as plain values, for JSON."""
    return {
        "schema_version": SCHEMA_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe(str(request.device)),
        "quantity": quantity,
        "request": asdict(request) | {"device": str(request.device)},
        "sharing": shared,
        "figures": [asdict(figure) for figure in figures],
    }


def _table(request: Request, quantity: str, figures: Sequence[Figure], notes: list[str]) -> Table:
    # What no model has, a kind of device has not.
    names = list(dict.fromkeys(name for each in figures for name, value in each.values.items() if value is not None))
    ratios = any(figure.ratio for figure in figures)
    last = [f"× {request.baseline}"] if ratios else []
    table = columns(quantity, "Batch", "Length", *(name.replace("_", " ") for name in names), *last)
    for column in table.columns[1:]:
        column.justify = "right"
    for figure in figures:
        remarks = [figure.reason] if figure.reason else []
        remarks += [f"~ noisy: {words}" for words in figure.disturbances]
        if figure.unsteady:
            remarks.append("~ unsteady: the middle half of the samples spans more than 30 % of their median")
        marks = "".join(f" [{footnotes.note(notes, words) + 1}]" for words in remarks)
        noisy = "~" if figure.disturbances or figure.unsteady else ""
        cells = [
            ("" if name.endswith(COUNTED) else noisy) + _shown(name, figure.values[name])
            if name in figure.values
            else ""
            for name in names
        ]
        if ratios:
            cells.append("" if figure.ratio is None else "{} ({}–{})".format(*map(significant, figure.ratio)))
        table.add_row(figure.model + marks, str(figure.batch), f"{figure.length:,}", *cells)
    return table


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return MISSING
    scale = next((each for ending, each in SCALES.items() if name.endswith(ending)), None)
    if scale is None:
        return significant(value)
    unit, factor = choose_unit(scale, [value])
    return f"{fixed(value / factor, max(0, decimals_for(value / factor)))} {unit}".rstrip()
