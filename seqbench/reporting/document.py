"""The neutral form of a report: what is shown, and not how. Renderers turn it into text.

Report → Section (one data set, one protocol) → Table → Row → TableCell
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from seqbench.protocol import Protocol
from seqbench.reporting.names import display_name
from seqbench.show.footnotes import note

if TYPE_CHECKING:
    from seqbench.reporting.variants import Variant

FAILED = "--"  # should have been measured and was not; a footnote says why
NOT_APPLICABLE = "n/a"  # the model has no such quantity
CEILING = "ceiling"
NOISY = "~"  # before a figure that was measured while the machine was not quiet
ARROWS = {"up": "↑", "down": "↓"}
MODES = {
    "whole": "whole sequence",
    "encode": "encoding only",
    "step": "incremental step",
    "prefill": "prefill of the state",
}


@dataclass(frozen=True)
class Column:
    """One quantity. Cells hold values in `base_unit` and show them in `unit`."""

    key: str
    title: str
    direction: Literal["up", "down"] | None = None  # which way is better; None: neither
    base_unit: str = ""
    unit: str = ""

    @property
    def header(self) -> str:
        """Return the title with an arrow that says which way is better."""
        return f"{self.title} {ARROWS[self.direction]}" if self.direction else self.title


@dataclass
class Difference:
    """How a figure differs from that of the best baseline of its column, over the same users."""

    baseline: str  # label of its row
    value: float  # figure minus that of the baseline
    relative: float | None
    low: float  # 95 % interval
    high: float
    p: float
    p_holm: float  # adjusted for all comparisons of the table
    better: float  # share of users
    worse: float


@dataclass
class TableCell:
    """One figure of one row, over seeds."""

    text: str  # the mean as shown, or FAILED, or NOT_APPLICABLE
    spread: str = ""  # the standard deviation as shown; empty for a single seed
    values: dict[str, float] = field(default_factory=dict)  # seed → value in the column's base unit
    mean: float | None = None
    std: float | None = None
    n: int = 0
    noise: list[str] = field(default_factory=list)  # what disturbed the measurement; such figures do not compete
    best: bool = False
    second: bool = False
    dagger: str = ""  # significantly better than the best baseline: "†" or "‡"
    difference: Difference | None = None
    notes: list[int] = field(default_factory=list)  # indices into the table's footnotes

    @property
    def prefix(self) -> str:
        """Return the mark before the figure: NOISY or nothing."""
        return NOISY if self.noise else ""


@dataclass
class Row:
    """One model, in one configuration."""

    model: str
    configuration: str  # what sets it apart from the model's defaults or its other rows; else empty
    cells: dict[str, TableCell]  # by column key
    mode: str = ""  # latency only: a key of MODES
    batch: int | None = None  # latency only
    ranked: bool = True  # whether it competes for best and second
    notes: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Return the row's name as papers print it."""
        name = display_name(self.model)
        return f"{name} ({self.configuration})" if self.configuration else name

    @property
    def block(self) -> str:
        """Return the heading of the block of rows that the row is in and competes with."""
        return f"batch {self.batch}, {MODES.get(self.mode, self.mode)}" if self.mode else ""


@dataclass
class Table:
    """Rows that may be compared: same data, same protocol and, for costs, same hardware."""

    kind: str  # "accuracy", "cost", "latency", or another name of tables.TABLES
    title: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # sentences on what the marks mean
    hardware: str = ""  # empty for accuracy
    statistic: str = ""  # latency only: "p50", "p95" or "p99"
    data_only: bool = False  # for CSV and JSON; too much for a page

    @property
    def spanner(self) -> str:
        """Say what all columns have in common, so that their own headers need not repeat it."""
        return f"{self.statistic} in ms ↓ at sequence length" if self.kind == "latency" else ""

    @property
    def averaged(self) -> bool:
        """Return whether its figures are means over seeds."""
        return self.kind not in ("tuning", "settings")

    @property
    def heading(self) -> str:
        """Say what the table shows, and on what hardware."""
        if self.kind == "latency":
            return f"Latency on {self.hardware}: {self.spanner}"
        return f"{self.title} on {self.hardware}" if self.hardware else self.title

    def note(self, text: str) -> int:
        """Return the index of a footnote; equal footnotes are printed once."""
        return note(self.footnotes, text)

    def mark(self) -> None:
        """Flag the best and the second-best cells of every column, within each block.

        Figures that read the same are the same: they are flagged together. Where all are, nobody wins.
        """
        for column in self.columns:
            if column.direction is None:
                continue
            for _, rows in self.blocks():
                cells = [row.cells[column.key] for row in rows if row.ranked and _competes(row.cells[column.key])]
                order = sorted({float(cell.text) for cell in cells}, reverse=column.direction == "up")
                for cell in cells if len(order) > 1 else ():
                    cell.best = float(cell.text) == order[0]
                    cell.second = float(cell.text) == order[1]

    def blocks(self) -> list[tuple[str, list[Row]]]:
        """Return the rows by block, in order."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.block, []).append(row)
        return list(grouped.items())


def _competes(cell: TableCell) -> bool:
    return cell.n > 0 and not cell.noise


@dataclass
class Section:
    """Everything that was measured on one data set under one protocol."""

    dataset: str
    fingerprint: str
    protocol: Protocol
    facts: dict[str, Any]  # users, items, interactions, evaluated_users, filters
    seeds: list[int]
    hardware: list[str]
    software: list[str]
    warnings: list[str]
    common: str = ""  # settings of all trained models that differ from their defaults
    deterministic: bool = False  # some models have nothing random in them and ran once
    ambiguous: bool = False  # another section has this data set under another fingerprint
    tables: list[Table] = field(default_factory=list)
    variants: "Sequence[Variant]" = ()  # the runs behind it, for figures; no part of the document as data

    @property
    def title(self) -> str:
        """Return the data set, told apart from another one of the same name."""
        return f"{self.dataset} [{self.fingerprint[:8]}]" if self.ambiguous else self.dataset

    @property
    def shown(self) -> list[Table]:
        """Return the tables that go on a page."""
        return [table for table in self.tables if not table.data_only]

    def description(self) -> list[str]:
        """Return sentences that say what the figures mean and where they come from."""
        return [
            f"{words}."
            for words in (
                self.data_words(),
                self.protocol_words(),
                f"Measured on {'; '.join(self.hardware)}" if self.hardware else "",
                "; ".join(self.software),
                self.common_words(),
                self.seed_words(),
            )
            if words
        ]

    def data_words(self) -> str:
        """Describe the data set."""
        counted = [("users", "users"), ("items", "items"), ("interactions", "interactions")]
        counted.append(("evaluated_users", "test users"))
        words = [f"{self.facts[key]:,} {name}" for key, name in counted if isinstance(self.facts.get(key), int)]
        if isinstance(untrained := self.facts.get("untrained_targets"), int) and self.protocol.split != "leave-one-out":
            words.append(f"the targets of {untrained:,} of them never trained on")
        if filters := self.facts.get("filters"):
            words.append(filters)
        return ", ".join(words)

    def protocol_words(self) -> str:
        """Describe the protocol."""
        return self.protocol.words()

    def common_words(self) -> str:
        """Name the settings that all trained models share and that are not their defaults."""
        return f"All trained models with {self.common}" if self.common else ""

    def seed_words(self) -> str:
        """Describe the seeds."""
        if len(self.seeds) == 1:
            return f"One seed ({self.seeds[0]})"
        listed = ", ".join(str(seed) for seed in self.seeds)
        words = f"Mean ± standard deviation over {len(self.seeds)} seeds ({listed})"
        return f"{words}; deterministic models ran once" if self.deterministic else words


@dataclass
class Report:
    """All sections, and where the figures come from."""

    metrics: list[str]
    models: list[str]  # in the order of the rows
    sections: list[Section]
    commits: list[str]
    first: str  # ISO 8601, start of the earliest run
    last: str  # ISO 8601, start of the latest run
