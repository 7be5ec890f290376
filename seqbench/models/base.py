"""What a model is: two kinds, one way to be scored.

Shapes: B batch, T time, D width, V items plus one (item 0 is padding).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.data.sequences import Sequences
from seqbench.losses import LOSSES, PROPOSALS
from seqbench.models.times import Times, given
from seqbench.precision import full
from seqbench.training.objectives import OBJECTIVES
from seqbench.tuning.dimensions import Choice, Dimension, Range


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds; how configs check their fields."""
    if not condition:
        raise ValueError(message)


def require_one_of(value: str, choices: Iterable[str], field: str) -> None:
    """Raise ValueError unless the value is one of the choices."""
    require(value in list(choices), f"{field} must be {' or '.join(choices)}, not '{value}'")


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained by gradient.

    A model class has its own `training_defaults`: its paper's learning rate, weight decay, clipping and loss. The
    batches, the epochs and the patience here are not the papers'. RecBole, which most of them use, takes batches of
    2048 prefixes, each with one target, and a patience of 10 epochs. A sequence that is trained at all positions has as
    many targets as transitions, so 32 of them hold 2048 targets where sequences have 64 on average, and fewer where
    they are short: about 190 on amazon-beauty, with 5.9 each. Batches of 2048 sequences would hold 12,000 there, and
    leave an epoch with 11 steps.
    """

    epochs: int = 200  # at most; early stopping usually ends before
    patience: int = 20  # epochs without a better validation metric before stopping
    batch_size: int = 32  # all-positions: sequences, as many positions as so many hold on average; prefix: prefixes
    learning_rate: float = 1e-3
    beta2: float = 0.999  # of Adam: how slowly the mean of squared gradients forgets
    weight_decay: float = 0.0  # decoupled (AdamW); none on what `no_weight_decay` names
    clip_norm: float = 0.0  # of the whole gradient; 0 is off
    objective: str = "all-positions"  # or "prefix": every prefix is a row, trained at its last position alone
    loss: str = "cross-entropy"  # over the whole catalogue; or a sampled one: one of LOSSES
    negatives: int = 256  # items drawn for each position, or for each batch (sampled-softmax, shared_negatives)
    proposal: str = "uniform"  # sampled-softmax: all items are drawn alike, or frequent ones more often ("log-uniform")
    calibration: float = 0.75  # gbce: t between 0 (plain bce) and 1 (unbiased probabilities)
    shared_negatives: bool = False  # uncorrected-softmax, bce, gbce: the positions of a batch share their negatives
    sparse_items: bool = False  # a step updates only the rows of the item table that it touches (sampled losses)
    validate_users: int = 0  # the epoch is chosen by so many users, drawn once, the same for all runs; 0: by all users
    validate_every: int = 1  # epochs between validations; the last epoch has one in any case

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs must be at least 1")
        require(self.patience >= 1, "patience must be at least 1")
        require(self.batch_size >= 1, "batch_size must be at least 1")
        require(self.learning_rate > 0, "learning_rate must be positive")
        require(self.weight_decay >= 0, "weight_decay must not be negative")
        require(0 <= self.beta2 < 1, "beta2 must be in [0, 1)")
        require(self.clip_norm >= 0, "clip_norm must not be negative")
        require_one_of(self.objective, OBJECTIVES, "objective")
        require_one_of(self.loss, LOSSES, "loss")
        require(self.negatives >= 1, "negatives must be at least 1")
        require_one_of(self.proposal, PROPOSALS, "proposal")
        require(0 <= self.calibration <= 1, "calibration must be between 0 and 1")
        require(
            not self.sparse_items or LOSSES[self.loss].sampled,
            f"sparse_items needs a loss that looks at a few items: {self.loss} scores the whole catalogue",
        )
        require(self.validate_users >= 0, "validate_users must not be negative")
        require(self.validate_every >= 1, "validate_every must be at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """Base of every model's own config dataclass."""

    @property
    def causal(self) -> bool:
        """Whether position t depends on items up to t only; if not, the objective is "prefix".

        A model that has both forms makes it a field.
        """
        return True

    @property
    def positions(self) -> str:
        """From which item positions count, if they matter: the "oldest" or the "newest".

        From the newest, an item that is appended moves all others, so that states cannot be carried on, and the state
        at an inner position is not that of the items up to it scored alone. A model that has both forms makes it a
        field.
        """
        return "oldest"

    @property
    def uses_times(self) -> bool:
        """Whether the model takes times (seqbench/models/times.py); a model that can do without makes it a field."""
        return False

    @property
    def absolute_times(self) -> bool:
        """Whether it matters when something was, and not only how long before something else."""
        return False

    @property
    def incremental(self) -> bool:
        """Whether an `IncrementalModel` of this form can carry its states on."""
        return self.causal and self.positions == "oldest"


@dataclass(frozen=True)
class NeuralConfig(ModelConfig):
    """What the neural models have in common."""

    hidden_size: int = 64
    layers: int = 2
    dropout: float = 0.2

    def __post_init__(self) -> None:
        require(self.hidden_size >= 1, "hidden_size must be at least 1")
        require(self.layers >= 1, "layers must be at least 1")
        require(0 <= self.dropout < 1, "dropout must be in [0, 1)")


# What is searched of a neural model unless it says more, or its paper names a grid: the same for all of them.
SPACE: dict[str, Dimension] = {
    "learning_rate": Range(1e-4, 1e-2, log=True),
    "dropout": Range(0.0, 0.8),
    "hidden_size": Choice((32, 64, 128)),
    "layers": Choice((1, 2, 3)),
    "weight_decay": Choice((0.0, 1e-6, 1e-4, 1e-2)),
}


def fill(items: Tensor, length: int) -> Tensor:
    """Return item ids (B, T) with padding behind them up to `length`.

    RecBole gives every row to a model so, at the maximum length; here rows reach to the longest of their batch. It
    matters to models that see padding.
    """
    return F.pad(items, (0, max(0, length - items.shape[1])))


def at_last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, T, …) at the last item of each row, (B, …), for lengths (B,); of all T items if None."""
    return x[:, -1] if lengths is None else x[torch.arange(x.shape[0], device=x.device), lengths - 1]


State = tuple[Tensor, ...]  # what an incremental model keeps of B histories: tensors (B, …)


class Model(nn.Module, ABC):
    """Scores the catalogue given a history. Subclass `SequenceModel` or `CountingModel`."""

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    training_defaults: ClassVar[TrainingConfig | None] = None  # None: nothing is trained by gradient
    ragged_buffers: ClassVar[tuple[str, ...]] = ()  # buffers whose size only fitting decides
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # data set → field → value, where the paper tunes per data set
    space: ClassVar[Mapping[str, Dimension]] = {}  # field → what `seqbench tune` tries; others keep their default
    display_name: ClassVar[str] = ""  # as papers print it; empty: the name of the class
    summary: ClassVar[str]  # a few words
    paper: ClassVar[str]  # authors, venue, year

    def __init__(self, items: int, max_len: int, config: ModelConfig) -> None:
        super().__init__()
        self.items = items
        self.max_len = max_len
        self.config = config

    @abstractmethod
    def score(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Score every item as the next one.

        Args:
            items: (B, T) ids, padded on the right with 0.
            lengths: (B,) number of items in each row, at least 1.

        Returns:
            (B, V) scores; column 0 (padding) is meaningless.
        """


class SequenceModel(Model):
    """A neural model: `forward` gives a state per position, scores are products with the item embedding."""

    training_defaults: ClassVar[TrainingConfig | None] = TrainingConfig()
    space: ClassVar[Mapping[str, Dimension]] = SPACE
    no_weight_decay: ClassVar[tuple[str, ...]] = ("bias", "norm")  # for parameters with one of these in their names

    @abstractmethod
    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Return states (B, T, D) of items (B, T) padded on the right with 0; those at padding are meaningless.

        A model that `uses_times` has a third argument, `times: Times | None = None`.
        """

    def last_states(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        """Return states (B, D) at the last item of each row, as in `forward`; override it to compute no others."""
        return at_last(self(items, lengths, *given(times)), lengths)

    @abstractmethod
    def item_weights(self) -> Tensor:
        """Return the table (V, D) that states are multiplied with; row 0 is padding."""

    def item_parameters(self) -> list[Tensor]:
        """Return the tables that `item_weights` and `item_bias` are made of, row by row; mostly they are such."""
        return [table for table in (self.item_weights(), self.item_bias()) if table is not None]

    def item_bias(self) -> Tensor | None:
        """Return what is added to the scores, (V,), or None."""
        return None

    def score_states(self, states: Tensor) -> Tensor:
        """Return scores (N, V) of states (N, D), in the precision of the item table."""
        items, bias = self.item_weights(), self.item_bias()
        with full(states.device):
            scores = states.to(items.dtype) @ items.t()
        return scores if bias is None else scores + bias

    def score(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        return self.score_states(self.last_states(items, lengths, *given(times)))


def device_of(model: Model) -> torch.device:
    """Return where a model is."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def scored_by_table(model: Model) -> SequenceModel | None:
    """Return the model if its scores are products of states with the item table, and no others are defined."""
    own = type(model).score is not SequenceModel.score or (
        isinstance(model, SequenceModel) and type(model).score_states is not SequenceModel.score_states
    )
    return None if own or not isinstance(model, SequenceModel) else model


class IncrementalModel(SequenceModel):
    """A model that can also append one item at a time, without encoding the history again.

    A model can do so in those of its forms only that are causal and count positions from the oldest item
    (`config.incremental`).
    """

    state_grows: ClassVar[bool] = False  # with the history, and so does the cost of a step
    ends_at_max_len: ClassVar[bool] = False  # no history can be longer, as where positions are learned

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` empty histories, on the model's device.

        Every tensor has the histories along its first dimension, so that states can be joined, picked and stored.
        """

    @abstractmethod
    def step(self, items: Tensor, state: State) -> tuple[Tensor, State]:
        """Append items (B,) to the histories; return states (B, D) as `forward` gives them, and the new state.

        The state that was given can be stepped from again, so that a step can be repeated, but the new state may share
        its memory: whoever does that must not use what earlier steps from it gave.

        A model that `uses_times` has a third argument, `times: Times | None = None`, with times (B,).

        Raises:
            ValueError: the model ends at max_len, and the histories have as many items.
        """

    def prefill(self, items: Tensor, lengths: Tensor | None = None, times: Times | None = None) -> State:
        """Return the state of histories: what steps over their items lead to.

        Args:
            items: (B, T) ids, padded on the right with 0.
            lengths: (B,) number of items in each row, perhaps 0; None if all rows have T.
            times: (B, T) of a model that uses them.
        """
        start = self.initial_state(len(items))
        if items.shape[1] == 0:
            return start
        state = self._prefill(items, start, lengths, *given(times))
        return state if lengths is None else chosen(lengths > 0, state, start)

    def check_state(self, state: State, batch: int) -> None:
        """Raise ValueError unless these tensors, which may come from a file, can be the state of `batch` histories."""
        expected = self.initial_state(1)
        if [(each.dtype, each.shape) for each in state] != [
            (each.dtype, (batch, *each.shape[1:])) for each in expected
        ]:
            raise ValueError(f"{type(self).__name__} has a state of other shapes")

    def _prefill(self, items: Tensor, start: State, lengths: Tensor | None, times: Times | None = None) -> State:
        """Return the state after items (B, T), T ≥ 1, from the initial state; of rows without items, any.

        A model that can do so in one pass overrides it.
        """
        state = start
        for t, column in enumerate(items.unbind(1)):
            _, after = self.step(column, state, *given(times and times.part(slice(None), t)))
            state = after if lengths is None else chosen(lengths > t, after, state)
        return state


def chosen(rows: Tensor, ones: State, others: State) -> State:
    """Return the histories of `ones` where rows (B,) are true, and those of `others` elsewhere."""
    return tuple(
        torch.where(rows.view(-1, *(1,) * (one.dim() - 1)), one, other) for one, other in zip(ones, others, strict=True)
    )


class CountingModel(Model):
    """A model without gradients: one pass over the training interactions."""

    @abstractmethod
    def fit(self, sequences: Sequences) -> None:
        """Count what is needed, in training interactions only."""
