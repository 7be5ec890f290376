"""Protocols: what the names stand for, their words, their checks, and how one is added."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from seqbench.data.sequences import Examples, Ints, Sequences
from seqbench.errors import UsageError
from seqbench.evaluation.ranking import rank
from seqbench.losses import LOSSES, Loss, Negatives
from seqbench.models.base import SequenceModel, TrainingConfig
from seqbench.protocol import PROTOCOLS, REMOVALS, WINDOWS, Protocol, Removal, Windows, choose
from seqbench.training.objectives import OBJECTIVES, Batch, Objective
from tests.trainkit import ITEMS, MAX_LEN, make_trainer


def test_protocol() -> None:
    assert choose("fair", split="temporal", max_len=7) == Protocol(split="temporal", max_len=7)
    with pytest.raises(UsageError, match="Did you mean leave-one-out"):
        choose("fair", split="leave-on-out", max_len=7)
    with pytest.raises(UsageError, match="Did you mean recbole"):
        choose("recbol", split="temporal", max_len=7)
    with pytest.raises(UsageError, match="no next item to train on"):
        choose("lrurec", split="temporal", max_len=1)


@pytest.mark.parametrize(
    ("name", "removed", "selection"),
    [("fair", "history", "ndcg@10"), ("lrurec", "window", "hr@10"), ("recbole", "nothing", "ndcg@10")],
)
def test_protocols_are_what_their_sources_do(name: str, removed: str, selection: str) -> None:
    found = choose(name, split="leave-one-out", max_len=50)
    assert (found.name, found.removed, found.selection) == (name, removed, selection)
    assert (found.windows == "lrurec") == (name == "lrurec")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_described_by_its_rules(name: str) -> None:
    protocol = choose(name, split="temporal", max_len=7)
    words = protocol.words()
    assert words.startswith(f"Protocol {name}: temporal split, full ranking, {REMOVALS[protocol.removed].words}")
    assert f"epoch chosen by validation {protocol.selection.upper()}" in words
    assert words.endswith("maximum length 7")
    assert (WINDOWS[protocol.windows].words in words) is True


def test_a_protocol_of_a_newer_version_is_described_by_name() -> None:
    words = Protocol("odd", removed="pairs", windows="sliding").words()
    assert "removed: pairs" in words
    assert "trained on sliding windows" in words


@pytest.mark.parametrize(
    "wrong", [{"removed": "histori"}, {"windows": "draw"}, {"selection": "ndgc@10"}, {"selection": "hr"}]
)
def test_a_choice_that_does_not_exist_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Protocol(**wrong).check()  # type: ignore[arg-type]


class OnlyFirst(Objective):
    """Every user's first transition alone."""

    needs_causality = False
    pool_batches = 2

    def rows(self, sequences: Sequences, protocol: Protocol, generator: np.random.Generator) -> tuple[Ints, Ints]:
        starts = sequences.offsets[:-1][sequences.train_stops - sequences.offsets[:-1] > 1]
        return starts, np.ones_like(starts)

    def targets(self, lengths: Ints) -> Ints:
        return lengths

    def batch(self, sequences: Sequences, starts: Ints, lengths: Ints) -> Batch:
        items = sequences.flat[starts].astype(np.int64)[:, None]
        return Batch.of(items, lengths, sequences.flat[starts + 1].astype(np.int64), np.arange(len(starts)))

    def states(self, model: SequenceModel, batch: Batch) -> Tensor:
        return model.last_states(batch.items, batch.lengths)


class Squares(Loss):
    """One minus the score of the target, squared, and the score of a drawn item, squared."""

    sampled = True

    def draw(self, targets: Tensor, generator: torch.Generator) -> Negatives:
        return Negatives(torch.randint(1, len(self.counts), (1,), generator=generator))

    def __call__(
        self, states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Negatives | None
    ) -> Tensor:
        assert negatives is not None
        return (1 - (states * items[targets]).sum(1)).square().mean() + (
            states @ items[negatives.ids].T
        ).square().mean()


def odd_items(sequences: Sequences, examples: Examples, max_len: int) -> Ints:
    return np.arange(1, sequences.items + 1, 2)[None].repeat(len(examples), 0)


def test_protocols_losses_and_objectives_are_added_from_outside(tmp_path: Path) -> None:
    toy = Protocol("toy", removed="odd", windows="whole", max_len=MAX_LEN)
    whole = Windows("whole sequences", lambda sequences, max_len, generator: sequences.windows(10**6, generator))
    with (
        REMOVALS.added("odd", Removal("odd items removed", odd_items, spares_target=False)),
        WINDOWS.added("whole", whole),
        PROTOCOLS.added("toy", toy),
        LOSSES.added("squares", Squares),
        OBJECTIVES.added("first", OnlyFirst()),
    ):
        protocol = choose("toy", split="leave-one-out", max_len=MAX_LEN)
        assert "odd items removed, trained on whole sequences" in protocol.words()
        for objective in ("first", "all-positions"):
            checkpoint = tmp_path / objective
            trainer = make_trainer(
                checkpoint=checkpoint, protocol=protocol, loss="squares", objective=objective, learning_rate=1e-2
            )
            history = trainer.run().history
            assert history[-1].loss < history[0].loss
        ranks = rank(trainer.model, trainer.sequences, trainer.sequences.test(), protocol, top=ITEMS)
        assert ranks.top is not None
        assert set(ranks.top.flatten().tolist()) == {0, *range(2, ITEMS + 1, 2)}
        odd = trainer.sequences.test().targets % 2 == 1
        assert (ranks.better[odd] == ITEMS // 2).all()
    with pytest.raises(UsageError, match="unknown"):
        choose("toy", split="leave-one-out", max_len=MAX_LEN)
    with pytest.raises(ValueError, match="loss must be"):
        TrainingConfig(loss="squares")
