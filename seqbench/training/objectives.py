"""Training objectives: which rows an epoch has, and which states are to predict which items.

`all-positions`: a window of a sequence is a row, and each of its positions predicts the next item. The protocol says
how sequences are cut into windows.
`prefix`: every history before a target is a row of its own, and only its last position predicts; the same targets,
each once per epoch, for many times the work. Models that are not causal need it. Windows do not matter to it.

To add one, write a subclass of `Objective` and enter it in OBJECTIVES.

Shapes: R rows of an epoch, B rows of a batch, T time, D width, N targets of a batch.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqbench.data.sequences import Ints, Sequences, pad
from seqbench.models.checks import check_shape
from seqbench.models.times import Times, given
from seqbench.protocol import WINDOWS, Protocol
from seqbench.registry import Registry

if TYPE_CHECKING:
    from seqbench.models.base import SequenceModel


class Batch(NamedTuple):
    """Rows of one step, and what they are to predict. All int64."""

    items: Tensor  # (B, T) ids, padded on the right with 0
    lengths: Tensor  # (B,)
    targets: Tensor  # (N,) item ids
    places: Tensor | None = None  # (N,) where in the flattened items histories of targets end; None: each row in one
    times: Times | None = None  # of the items, for a model that uses them

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Return what a model encodes: items, lengths, and times if it uses them."""
        return self.items, self.lengths, *given(self.times)

    @classmethod
    def of(cls, items: Ints, lengths: Ints, targets: Ints, places: Ints | None = None) -> "Batch":
        """Make a batch of numpy arrays."""
        where = None if places is None else torch.from_numpy(places)
        return cls(torch.from_numpy(items), torch.from_numpy(lengths), torch.from_numpy(targets), where)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device."""
        return self._replace(**{name: each.to(device) for name, each in self._asdict().items() if each is not None})


class Objective(ABC):
    """How training rows are made of sequences, and what is trained of them."""

    needs_causality: ClassVar[bool]  # whether a state that saw later items would see its own target
    # Rows are sorted by length within shuffled pools of this many batches: almost no padding, and still a new
    # composition of every batch in every epoch.
    pool_batches: ClassVar[int]

    @abstractmethod
    def rows(self, sequences: Sequences, protocol: Protocol, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Return starts (R,) and lengths (R,) of one epoch's rows, as ranges of the flat item array."""

    @abstractmethod
    def targets(self, lengths: Ints) -> Ints:
        """Return how many targets rows of these lengths (R,) have, (R,)."""

    @abstractmethod
    def batch(self, sequences: Sequences, starts: Ints, lengths: Ints) -> Batch:
        """Return some of the rows as a padded batch with its targets."""

    @abstractmethod
    def states(self, model: "SequenceModel", batch: Batch) -> Tensor:
        """Return the states (N, D) that are to predict a batch's targets, in their order.

        Raises:
            SeqbenchError: the model returns a tensor of another shape than it should.
        """


class AllPositions(Objective):
    """Every position of a window predicts the next item."""

    needs_causality = True
    pool_batches = 16

    def rows(self, sequences: Sequences, protocol: Protocol, generator: np.random.Generator) -> tuple[Ints, Ints]:
        return WINDOWS[protocol.windows].cut(sequences, protocol.max_len, generator)

    def targets(self, lengths: Ints) -> Ints:
        return lengths

    def batch(self, sequences: Sequences, starts: Ints, lengths: Ints) -> Batch:
        items, _ = pad(sequences.flat, starts, starts + lengths)
        following, _ = pad(sequences.flat, starts + 1, starts + lengths + 1)
        return Batch.of(items, lengths, following[items > 0], np.flatnonzero(items))

    def states(self, model: "SequenceModel", batch: Batch) -> Tensor:
        states: Tensor = model(*batch.inputs)
        check_shape(model, "forward", states, (*batch.items.shape, model.item_weights().shape[1]))
        assert batch.places is not None
        result: Tensor = states.flatten(0, 1).index_select(0, batch.places)
        return result


class Prefixes(Objective):
    """Every history predicts the item after it."""

    needs_causality = False
    # Batches of equally many prefixes span more lengths than batches of equally many positions: on 100,000 prefixes of
    # geometric lengths up to 200 in batches of 128, 27 % are padding with pools of 16, 16 % with pools of 32.
    pool_batches = 32

    def rows(self, sequences: Sequences, protocol: Protocol, generator: np.random.Generator) -> tuple[Ints, Ints]:
        return sequences.prefixes(protocol.max_len)

    def targets(self, lengths: Ints) -> Ints:
        return np.ones_like(lengths)

    def batch(self, sequences: Sequences, starts: Ints, lengths: Ints) -> Batch:
        items, _ = pad(sequences.flat, starts, starts + lengths)
        targets = sequences.flat[starts + lengths].astype(np.int64)
        return Batch.of(items, lengths, targets)

    def states(self, model: "SequenceModel", batch: Batch) -> Tensor:
        states = model.last_states(*batch.inputs)
        check_shape(model, "last_states", states, (len(batch.items), model.item_weights().shape[1]))
        return states


OBJECTIVES: Registry[Objective] = Registry(
    "Objective", {"all-positions": AllPositions(), "prefix": Prefixes()}, "seqbench list models lrurec"
)
