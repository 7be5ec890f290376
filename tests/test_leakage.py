"""No held-out item influences anything that is counted, drawn, trained, shown to a model or removed."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seqbench.data.sequences import SPLITS, Examples, Sequences, split_sequences
from seqbench.evaluation.ranking import rank
from seqbench.losses import LOSSES, PROPOSALS
from seqbench.models import MODELS, load_model
from seqbench.models.base import CountingModel, ModelConfig, SequenceModel, TrainingConfig
from seqbench.protocol import REMOVALS, WINDOWS, Protocol
from seqbench.training import loop
from seqbench.training.loop import Trainer
from seqbench.training.objectives import OBJECTIVES

USERS, ITEMS, MAX_LEN = 12, 20, 5
COUNTING = [name for name in MODELS if issubclass(load_model(name), CountingModel)]


def sequences_of(split: str = "leave-one-out") -> Sequences:
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 16, USERS)
    users = np.repeat(np.arange(1, USERS + 1), lengths).astype(np.int32)
    times = np.concatenate([np.sort(rng.integers(0, 1000, length)) for length in lengths])
    items = rng.integers(1, ITEMS + 1, len(users)).astype(np.int32)
    items[0] = ITEMS
    return split_sequences(users, items, times, split=split)


def changed(sequences: Sequences, firsts: np.ndarray) -> Sequences:
    """The same sequences with another item at every position from these (U,) on."""
    stops = np.repeat(firsts, np.diff(sequences.offsets))
    at = np.arange(len(sequences.flat)) >= stops
    assert at.any()
    return dataclasses.replace(
        sequences, flat=np.where(at, sequences.flat % ITEMS + 1, sequences.flat).astype(np.int32)
    )


@pytest.fixture(params=SPLITS)
def pair(request: pytest.FixtureRequest) -> tuple[Sequences, Sequences]:
    """Two data sets that differ in every held-out item, and in nothing else."""
    sequences = sequences_of(request.param)
    return sequences, changed(sequences, sequences.train_stops)


@pytest.mark.parametrize("name", COUNTING)
def test_a_counting_model_counts_training_items_alone(name: str, pair: tuple[Sequences, Sequences]) -> None:
    cls = load_model(name)
    items, lengths = torch.arange(1, ITEMS + 1).unsqueeze(1), torch.ones(ITEMS, dtype=torch.long)
    scores = []
    for sequences in (*pair, changed(pair[0], pair[0].train_stops - 1)):
        model = cls(ITEMS, MAX_LEN, cls.Config())
        assert isinstance(model, CountingModel)
        model.fit(sequences)
        scores.append(model.score(items, lengths))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2]), "the last training items count"


def trained(sequences: Sequences, windows: str, **settings: Any) -> dict[str, torch.Tensor]:
    """The weights after an epoch."""
    cls = load_model("gru4rec")
    torch.manual_seed(0)
    model = cls(ITEMS, MAX_LEN, dataclasses.replace(cls.Config(), hidden_size=4, layers=1))
    assert isinstance(model, SequenceModel)
    training = TrainingConfig(epochs=1, batch_size=32, learning_rate=1e-2, **settings)
    Trainer(model, sequences, training=training, protocol=Protocol(windows=windows, max_len=MAX_LEN)).run()
    return model.state_dict()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize(
    ("loss", "proposal"),
    [(loss, proposal) for loss in LOSSES for proposal in (PROPOSALS if loss == "sampled-softmax" else ["uniform"])],
)
def test_training_sees_training_items_alone(
    loss: str, proposal: str, windows: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The validation item chooses the epoch, which is what it is for.
    monkeypatch.setattr(loop, "rank", lambda *_, **__: SimpleNamespace(per_user=lambda _: np.ones(1)))
    settings = {"loss": loss, "proposal": proposal, "objective": objective, "negatives": 6}
    sequences = sequences_of("temporal")
    held_out = changed(sequences, sequences.train_stops)
    last = changed(sequences, sequences.train_stops - 1)
    one, other, different = (trained(each, windows, **settings) for each in (sequences, held_out, last))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], different[name]) for name in one), "the last training item is a target"


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("split", SPLITS)
def test_rows_and_their_targets_lie_within_the_training_part_of_one_user(
    split: str, windows: str, objective: str
) -> None:
    sequences = sequences_of(split)
    protocol = Protocol(windows=windows, max_len=MAX_LEN)
    starts, lengths = OBJECTIVES[objective].rows(sequences, protocol, np.random.default_rng(0))
    users = np.searchsorted(sequences.offsets, starts, side="right") - 1
    assert (lengths >= 1).all()
    assert (lengths <= MAX_LEN).all()
    assert (starts + lengths < sequences.train_stops[users]).all()  # where the last target lies


@pytest.mark.parametrize("removed", REMOVALS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("part", ["valid", "test"])
def test_neither_the_target_nor_a_later_item_is_shown_or_removed(part: str, split: str, removed: str) -> None:
    class Watching(CountingModel):
        def fit(self, sequences: Sequences) -> None:
            raise NotImplementedError

        def score(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            shown.append(items.tolist())
            return torch.arange(ITEMS + 1.0).expand(len(items), -1)

    seen = []
    sequences = sequences_of(split)
    positions = sequences.valid_positions if part == "valid" else sequences.test_positions
    for each in (sequences, changed(sequences, np.where(positions < 0, len(sequences.flat), positions))):
        shown: list[Any] = []
        examples: Examples = each.valid() if part == "valid" else each.test()
        model = Watching(ITEMS, MAX_LEN, ModelConfig())
        ranks = rank(model, each, examples, Protocol(removed=removed, max_len=MAX_LEN), top=3)
        forbidden = REMOVALS[removed].items(each, examples, MAX_LEN)
        assert ranks.top is not None
        seen.append((shown, forbidden.tolist(), ranks.top.tolist()))
    assert seen[0] == seen[1]
