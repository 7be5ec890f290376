"""What the tables of one section are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from seqbench.errors import SeqbenchError
from seqbench.evaluation.metrics import Measure
from seqbench.reporting.variants import Variant
from seqbench.tuning.searches import Searches

if TYPE_CHECKING:
    from seqbench.evaluation.background import Background


@dataclass
class Material:
    """Runs of one data set under one protocol, and what was asked for.

    Args:
        variants: runs grouped over seeds, in the order of the rows.
        measures: the metrics that were asked for.
        seeds: those of the section.
        baselines: models that the others are tested against.
        on: "test" or "valid", the part whose accuracy is shown.
        searches: for better settings, by model.
        percentiles: of latency, that pages show.
        read: reads histories and popularity from the prepared data set; raises SeqbenchError.
        warnings: what went wrong while tables were made; they become those of the section.
    """

    variants: Sequence[Variant]
    measures: Sequence[Measure]
    seeds: Sequence[int]
    baselines: Sequence[str]
    on: Literal["test", "valid"]
    read: "Callable[[], Background]"
    searches: Searches = field(default_factory=dict)
    percentiles: Sequence[str] = ("p50",)
    warnings: list[str] = field(default_factory=list)
    _known: "Background | None" = None

    def known(self) -> "Background | None":
        """Return histories and popularity, read when first asked for; None, with a warning, if they are not there."""
        if self._known is None and not self.warnings:
            try:
                self._known = self.read()
            except SeqbenchError as error:
                self.warnings.append(f"{error.message} {error.hint or ''}".strip())
        return self._known
