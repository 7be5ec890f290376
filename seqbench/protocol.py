"""Protocols: how models are trained and judged.

A protocol is named, and made of choices that are named too: which items cannot be recommended (REMOVALS) and how long
sequences are cut for training (WINDOWS). Adding one is one entry in its table. Importing this module costs nothing, so
that the command line can list the names.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqbench.errors import UsageError, unknown_name
from seqbench.evaluation import metrics
from seqbench.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from seqbench.data.sequences import Examples, Ints, Sequences

LISTING = "seqbench run --help"


@dataclass(frozen=True)
class Removal:
    """A rule for the items that cannot be recommended to a user: they rank behind all others.

    Args:
        words: the rule in a few words.
        items: (sequences, examples, max_len) → (B, K) ids of what each of the examples (B) may not get, 0 for none.
        spares_target: whether a target that the rule removes competes nevertheless.
    """

    words: str
    items: "Callable[[Sequences, Examples, int], Ints]"
    spares_target: bool = True


def _history(sequences: "Sequences", examples: "Examples", max_len: int) -> "Ints":
    from seqbench.data.sequences import pad

    return pad(sequences.flat, examples.starts, examples.stops)[0]


def _window(sequences: "Sequences", examples: "Examples", max_len: int) -> "Ints":
    from seqbench.data.sequences import pad

    return pad(sequences.flat, examples.starts, examples.stops, max_len)[0]


def _nothing(sequences: "Sequences", examples: "Examples", max_len: int) -> "Ints":
    from seqbench.data.sequences import pad

    return pad(sequences.flat, examples.stops, examples.stops)[0]


REMOVALS: Registry[Removal] = Registry(
    "Removal",
    {
        "history": Removal("seen items removed", _history),
        # Even a target that the model sees, as in the code of LRURec.
        "window": Removal("items of the input window removed", _window, spares_target=False),
        "nothing": Removal("seen items kept", _nothing),
    },
    LISTING,
)


@dataclass(frozen=True)
class Windows:
    """A way to cut sequences that are longer than a model sees into rows for training at all positions.

    Args:
        words: what the rows are called in a report; empty for the usual ones.
        cut: (sequences, max_len, generator) → starts (W,) and lengths (W,) of the rows of one epoch, as ranges of
            `sequences.flat`; the targets are the same ranges shifted by one.
        minimum: smallest `max_len` that leaves something to train on.
    """

    words: str
    cut: "Callable[[Sequences, int, np.random.Generator], tuple[Ints, Ints]]"
    minimum: int = 1


WINDOWS: Registry[Windows] = Registry(
    "Windows",
    {
        "drawn": Windows("", lambda sequences, max_len, generator: sequences.windows(max_len, generator)),
        "lrurec": Windows(
            "LRURec's windows", lambda sequences, max_len, generator: sequences.lrurec_windows(max_len), minimum=2
        ),
    },
    LISTING,
)


@dataclass(frozen=True)
class Protocol:
    """How a model is trained and judged. Figures of different protocols never share a column."""

    name: str = "fair"  # a name in PROTOCOLS
    split: str = "leave-one-out"  # see data/sequences.py
    removed: str = "history"  # what cannot be recommended: a name in REMOVALS
    selection: str = "ndcg@10"  # the validation metric that picks the epoch
    windows: str = "drawn"  # how long sequences are cut for training, where the objective cuts: a name in WINDOWS
    max_len: int = 50  # most recent items that a model sees
    request_time: bool = False  # whether models may know when the next item is asked for: the time of the target

    def check(self) -> None:
        """Raise UsageError unless all choices exist and leave something to train on."""
        from seqbench.data.catalog import GIVEN, SPLITS

        if self.split not in (*SPLITS, GIVEN):
            raise unknown_name("Split", self.split, (*SPLITS, GIVEN), LISTING)
        _ = REMOVALS[self.removed], metrics.parse(self.selection)
        minimum = WINDOWS[self.windows].minimum
        if self.max_len < minimum:
            raise UsageError(
                f"Protocol {self.name} cuts sequences into windows of {self.max_len} item, which leaves no next item "
                "to train on.",
                hint=f"Use --max-len {minimum} or more.",
            )

    def words(self) -> str:
        """Describe the protocol in one line."""
        return (
            f"Protocol {self.name}: {self.split} split, full ranking, {self.summary()}, maximum length {self.max_len}"
        )

    def summary(self) -> str:
        """Describe what its name stands for. Choices that this version does not know are given by name."""
        removed = REMOVALS[self.removed].words if self.removed in REMOVALS else f"removed: {self.removed}"
        trained = f", trained on {windows}" if (windows := self.windows_words()) else ""
        known = ", time of the request known" if self.request_time else ""
        return f"{removed}{known}{trained}, epoch chosen by validation {self.selection.upper()}"

    def windows_words(self) -> str:
        """Name the training windows; empty for the usual ones."""
        return WINDOWS[self.windows].words if self.windows in WINDOWS else f"{self.windows} windows"


# `fair` is ours. The others follow the code that published figures come from, so that they can be compared with:
# `lrurec` that of LRURec, `recbole` that of RecBole, which the papers of the other architectures use.
PROTOCOLS: Registry[Protocol] = Registry(
    "Protocol",
    {
        "fair": Protocol(),
        "lrurec": Protocol("lrurec", removed="window", selection="hr@10", windows="lrurec"),
        "recbole": Protocol("recbole", removed="nothing"),
    },
    LISTING,
)


def choose(name: str, *, split: str, max_len: int, request_time: bool = False) -> Protocol:
    """Return the protocol of that name with a split, a maximum length, and what models may know of the request.

    Raises:
        UsageError: no such protocol or split, or a length that leaves nothing to train on.
    """
    named = PROTOCOLS[name]
    request_time = request_time or named.request_time
    chosen = dataclasses.replace(named, split=split, max_len=max_len, request_time=request_time)
    chosen.check()
    return chosen
