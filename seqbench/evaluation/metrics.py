"""Ranking metrics of one relevant item: HR, NDCG, MRR and mean rank, from two counts for each user.

The counts are the items that score strictly better than the target, and the others that tie with it. Equal scores count
as their expectation over random tie-breaking: a model that scores everything alike gets chance level, not a perfect or
a zero score.

With r the 1-based rank of the target: HR@k = [r ≤ k], NDCG@k = [r ≤ k] / log2(r + 1), MRR@k = [r ≤ k] / r. A metric
without a cut-off counts all ranks. Importing this module costs nothing, so that the command line can list the metrics.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from seqbench.errors import UsageError, unknown_name
from seqbench.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

Direction = Literal["up", "down"]
LISTING = "seqbench report --help"


@dataclass(frozen=True)
class Metric:
    """A function of the rank, to be averaged over users.

    Args:
        title: the name in tables.
        gain: ranks 1 … k, (k,) of whole numbers → (k,) what a target at each of them counts.
        direction: "up" if larger is better.
        cutoff: whether ranks beyond a cut-off count nothing, as in "hr@10": "always", "optional" or "never".
        decimals: digits behind the point in tables.
    """

    title: str
    gain: "Callable[[Ints], Floats]"
    direction: Direction = "up"
    cutoff: Literal["always", "optional", "never"] = "optional"
    decimals: int = 4


def _hit(ranks: "Ints") -> "Floats":
    import numpy as np

    return np.ones(len(ranks))


def _discounted(ranks: "Ints") -> "Floats":
    import numpy as np

    return np.asarray(1 / np.log2(ranks + 1))


def _reciprocal(ranks: "Ints") -> "Floats":
    return 1.0 / _rank(ranks)


def _rank(ranks: "Ints") -> "Floats":
    import numpy as np

    return ranks.astype(np.float64)


METRICS: Registry[Metric] = Registry(
    "Metric",
    {
        "hr": Metric("HR", _hit, cutoff="always"),
        "recall": Metric("Recall", _hit, cutoff="always"),  # of one relevant item, the same as HR
        "ndcg": Metric("NDCG", _discounted),
        "mrr": Metric("MRR", _reciprocal),
        "rank": Metric("Mean rank", _rank, direction="down", cutoff="never", decimals=1),
    },
    LISTING,
)

CUTOFFS = (5, 10, 20)
# The means that a record keeps, for people to read and for cells without ranks.
STANDARD = tuple(f"{name}@{k}" for k in CUTOFFS for name in ("hr", "ndcg", "mrr"))


@dataclass(frozen=True)
class Measure:
    """A metric at a cut-off, or without one."""

    key: str  # "ndcg@10", "mrr"
    metric: Metric
    cutoff: int | None

    @property
    def title(self) -> str:
        """Return the name in tables: "NDCG@10", "MRR"."""
        return self.metric.title if self.cutoff is None else f"{self.metric.title}@{self.cutoff}"

    def per_user(self, better: "Ints", ties: "Ints") -> "Floats":
        """Return (U,) expected values under random tie-breaking.

        Args:
            better: (U,) items that score strictly higher than the target.
            ties: (U,) other items with exactly the same score; the rank is uniform on better + 1 … better + ties + 1.
        """
        import numpy as np

        worst = int((better + ties).max(initial=0)) + 1
        ranks = np.arange(1, (worst if self.cutoff is None else min(self.cutoff, worst)) + 1)
        cumulative = np.concatenate([[0.0], np.cumsum(self.metric.gain(ranks))])
        first = np.minimum(better, len(ranks))
        last = np.minimum(better + ties + 1, len(ranks))
        return np.asarray((cumulative[last] - cumulative[first]) / (ties + 1))


def parse(text: str) -> Measure:
    """Return the measure that a word such as "ndcg@10", "Recall@50" or "mrr" means.

    Raises:
        UsageError: no such metric, or a cut-off that it cannot have.
    """
    key = text.strip().lower()
    name, at, cutoff = key.partition("@")
    if name not in METRICS:
        suffix = f"{at}{cutoff}"
        raise unknown_name("Metric", key, [f"{known}{suffix}" for known in METRICS], LISTING)
    metric = METRICS[name]
    if metric.cutoff == "never" and at:
        raise UsageError(f"Metric '{name}' has no cut-off.", hint=f"Ask for --metric {name}.")
    if metric.cutoff == "always" and not at:
        raise UsageError(f"Metric '{name}' needs a cut-off.", hint=f"For example --metric {name}@10.")
    if at and not (cutoff.isascii() and cutoff.isdecimal() and int(cutoff[:10]) > 0 and len(cutoff) < 10):
        raise UsageError(f"'{key}': '{cutoff}' is not a cut-off.", hint=f"For example --metric {name}@10.")
    return Measure(f"{name}@{int(cutoff)}" if at else name, metric, int(cutoff) if at else None)


def per_user(metric: str, better: "Ints", ties: "Ints") -> "Floats":
    """Return (U,) expected values of a metric such as "ndcg@10"; see `Measure.per_user`."""
    return parse(metric).per_user(better, ties)


def means(better: "Ints", ties: "Ints") -> dict[str, float]:
    """Return the mean over users of every standard metric."""
    return {metric: float(per_user(metric, better, ties).mean()) for metric in STANDARD}
