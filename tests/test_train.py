"""Training: batches, objectives, losses, early stopping, resuming bit for bit."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqbench import losses
from seqbench.data.sequences import Examples, Sequences
from seqbench.device import DEVICES
from seqbench.errors import Diverged, OutOfTime, SeqbenchError
from seqbench.events import EpochEnded, Event, MemoryNeeded, Resumed
from seqbench.losses import LOSSES, PROPOSALS, Negatives
from seqbench.models import MODELS, load_model
from seqbench.models.base import SequenceModel, TrainingConfig, at_last
from seqbench.protocol import Protocol
from seqbench.training import loop, objectives
from seqbench.training.batches import batches
from seqbench.training.loop import WARMUP_STEPS, Trainer, derived_seed
from seqbench.training.objectives import OBJECTIVES
from seqbench.training.state import Epoch, TrainingState
from tests.trainkit import ITEMS, make_trainer

NEURAL = [name for name in MODELS if issubclass(load_model(name), SequenceModel)]
CHECKPOINT = "checkpoint.safetensors"
WATCHED = ("emit", "clock", "peak_memory", "until")

Make = Callable[..., Trainer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that makes a trainer over always the same data, seed and checkpoint."""

    def made(name: str = "lrurec", **changes: Any) -> Trainer:
        watched = {name: changes.pop(name) for name in WATCHED if name in changes}
        return make_trainer(name, checkpoint=tmp_path / CHECKPOINT, watched=watched, **changes)

    return made


def figures(trainer: Trainer) -> tuple[list[tuple[float, float]], int, float]:
    """All of a training that must not depend on when it was interrupted."""
    state = trainer.state
    return [(entry.loss, entry.validation) for entry in state.history], state.best_epoch, state.best


def equal_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def copy_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def script(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let the validation metric of epoch n be the n-th value."""
    remaining = iter(values)
    monkeypatch.setattr(
        loop, "rank", lambda *_, **__: SimpleNamespace(per_user=lambda _: np.array([next(remaining)] * 3))
    )


# Batches


def skewed_lengths(count: int = 3000) -> np.ndarray:
    return np.minimum(200, np.random.default_rng(0).geometric(0.05, count)).astype(np.int64)


def batches_of(lengths: np.ndarray, seed: int = 0, size: int = 32) -> list[np.ndarray]:
    return list(batches(lengths, lengths, size, 16, np.random.default_rng(seed)))


@pytest.mark.parametrize("size", [1, 7, 32, 5000])
@pytest.mark.parametrize("count", [1, 31, 32, 3000])
def test_every_window_is_in_exactly_one_batch(count: int, size: int) -> None:
    found = batches_of(skewed_lengths(count), size=size)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    assert all(len(batch) for batch in found)


def test_batches_are_almost_free_of_padding() -> None:
    lengths = skewed_lengths()

    def padding(found: list[np.ndarray]) -> float:
        return 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in found)

    shuffled = np.random.default_rng(0).permutation(len(lengths))
    unsorted = np.array_split(shuffled, len(lengths) // 32)
    assert padding(unsorted) > 0.5
    assert padding(batches_of(lengths)) < 0.15


def test_batches_of_prefixes_are_equally_large_and_almost_free_of_padding() -> None:
    lengths = skewed_lengths()
    found = list(batches(lengths, np.ones_like(lengths), 50, 32, np.random.default_rng(0)))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert {len(batch) for batch in found} == {50}
    assert 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in found) < 0.2


def test_batches_change_every_epoch_and_repeat_with_the_seed() -> None:
    lengths = skewed_lengths(500)
    one, again, other = batches_of(lengths), batches_of(lengths), batches_of(lengths, seed=1)
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in again]
    assert {frozenset(batch.tolist()) for batch in one} != {frozenset(batch.tolist()) for batch in other}
    means = [lengths[batch].mean() for batch in one]
    assert means != sorted(means)  # not from short to long


def test_a_model_that_sees_the_future_is_never_trained_on_all_positions(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_model("sasrec").Config, "causal", False)
    with pytest.raises(ValueError, match="not causal"):
        make("sasrec", objective="all-positions")


def test_every_epoch_has_an_order_and_draws_of_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(epochs=3, loss="bce")
    step, seen = trainer._step, []

    def watch(starts: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        rows = tuple(zip(starts.tolist(), lengths.tolist(), strict=True))
        seen.append((trainer.state.epoch, torch.initial_seed(), trainer.generator.initial_seed(), rows))
        return step(starts, lengths)

    monkeypatch.setattr(trainer, "_step", watch)
    trainer.run()
    epochs = [[rows for epoch, *_, rows in seen if epoch == number] for number in range(3)]
    compositions = [{frozenset(rows) for rows in batches} for batches in epochs]
    windows = [{row for rows in batches for row in rows} for batches in epochs]
    for found in (epochs, compositions, windows):
        assert found[0] != found[1] != found[2] != found[0]
    for drawn in ({seed for _, seed, _, _ in seen}, {seed for _, _, seed, _ in seen}):
        assert len(drawn) == 3, "one seed for each epoch"


def test_derived_seeds_differ() -> None:
    seeds = {derived_seed(seed, epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 1 << 63 for seed in seeds)


# Learning


@pytest.mark.parametrize("name", NEURAL)
def test_the_loss_falls(name: str, make: Make) -> None:
    trainer = make(name, epochs=4, learning_rate=1e-2)
    losses = [entry.loss for entry in trainer.run().history]
    assert losses[-1] < losses[0] - 0.05
    if name != "hstu":  # whose first scores, cosines divided by a temperature, are far from alike
        assert losses[0] == pytest.approx(np.log(ITEMS + 1), abs=0.5)


def _end_the_time(trainer: Trainer, event: Event) -> None:
    """Leave less time than an epoch takes after each of them."""
    if isinstance(event, EpochEnded):
        trainer.until = time.time() + event.train_seconds / 2


def test_the_epoch_is_chosen_by_the_validation_targets(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Examples] = []

    def watch(model: SequenceModel, sequences: Sequences, examples: Examples, *_: Any, **__: Any) -> SimpleNamespace:
        seen.append(examples)
        return SimpleNamespace(per_user=lambda _: np.zeros(1))

    monkeypatch.setattr(loop, "rank", watch)
    trainer = make(epochs=1)
    trainer.run()
    (asked,) = seen
    assert np.array_equal(asked.stops, trainer.sequences.valid().stops)
    assert not np.array_equal(asked.stops, trainer.sequences.test().stops)


def test_an_epoch_that_would_end_too_late_is_not_begun(make: Make) -> None:
    """The last one took as long as there is time for; after more time, training goes on as if never interrupted."""
    whole = make(epochs=4)
    whole.run()
    assert whole.checkpoint is not None
    whole.checkpoint.unlink()
    for epoch in (1, 2, 3, 4):
        trainer = make(epochs=4, until=time.time() + 60)
        trainer.resume()
        trainer.emit = partial(_end_the_time, trainer)
        with pytest.raises(OutOfTime) if epoch < 4 else nullcontext():
            trainer.run()
        assert trainer.state.epoch == epoch
    assert figures(trainer) == figures(whole)


def test_the_same_seed_trains_the_same_model(make: Make, tmp_path: Path) -> None:
    first, second = make(epochs=2), make(epochs=2)
    first.run()
    (tmp_path / CHECKPOINT).unlink()
    second.run()
    assert figures(first) == figures(second)
    assert equal_weights(copy_of(first), copy_of(second))


def test_the_content_of_padding_never_matters(make: Make) -> None:
    rows = np.array([0, 1, 2, 3, 4, 5])
    plain, poisoned = make(), make()
    starts, lengths = (ends[rows] for ends in plain.sequences.windows(plain.protocol.max_len, np.random.default_rng(0)))
    assert len(set(lengths)) > 1, "there is padding"
    poisoned.model.register_forward_hook(
        lambda _, inputs, states: states.masked_fill((inputs[0] == 0).unsqueeze(-1), torch.nan)
    )
    torch.manual_seed(1)
    loss = plain._step(starts, lengths)
    torch.manual_seed(1)
    again = poisoned._step(starts, lengths)
    assert torch.isfinite(loss)
    assert torch.equal(loss, again)
    assert equal_weights(copy_of(plain), copy_of(poisoned))


def test_logits_are_computed_at_valid_positions_only(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    loss = losses.linear_cross_entropy

    def watch(states: torch.Tensor, *others: Any) -> torch.Tensor:
        shapes.append(states.shape[0])
        return loss(states, *others)

    monkeypatch.setattr(losses, "linear_cross_entropy", watch)
    trainer = make(epochs=1)
    trainer.run()
    assert sum(shapes) == len(trainer.sequences.training_pairs()[0])


@pytest.mark.parametrize("clip", [0.01, 0.0])
def test_gradients_are_clipped_unless_that_is_off(clip: float, make: Make) -> None:
    trainer = make(epochs=1, clip_norm=clip)
    norms = []

    def watch(*_: Any) -> None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))

    trainer.optimizers[0].register_step_pre_hook(watch)
    trainer.run()
    if clip:
        assert max(norms) <= clip * 1.0001
    else:
        assert min(norms) > 0.01


@pytest.mark.parametrize("name", NEURAL)
def test_weights_decay_but_for_what_the_model_exempts(name: str, make: Make) -> None:
    trainer = make(name, weight_decay=0.1, learning_rate=0.5)
    before = copy_of(trainer)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (optimizer,) = trainer.optimizers
    optimizer.step()
    for key, parameter in trainer.model.named_parameters():
        decays = not any(part in key for part in trainer.model.no_weight_decay)
        expected = before[key] * (1 - 0.5 * 0.1) if decays else before[key]
        torch.testing.assert_close(parameter.detach(), expected, msg=key)


def test_throughput_leaves_out_the_first_steps_of_a_process(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    trainer = make(epochs=2, batch_size=4, clock=lambda: now)
    step = trainer._step
    counts: list[int] = []
    sequences: list[int] = []

    def slow_at_first(starts: Any, lengths: Any) -> Any:
        nonlocal now
        now += 100.0 if len(counts) < WARMUP_STEPS else 1.0
        sequences.append(len(starts))
        counts.append(int(lengths.sum()))
        return step(starts, lengths)

    monkeypatch.setattr(trainer, "_step", slow_at_first)
    state = trainer.run()
    first, second = state.history
    steps = len(counts) // 2
    assert (first.timed_seconds, second.timed_seconds) == (steps - WARMUP_STEPS, steps)
    assert first.timed_interactions == sum(counts[WARMUP_STEPS:steps])
    assert second.timed_interactions == sum(counts[steps:])
    assert second.timed_sequences == sum(sequences[steps:])
    assert first.train_seconds == 100 * WARMUP_STEPS + steps - WARMUP_STEPS
    rates = [sum(counts[WARMUP_STEPS:steps]) / (steps - WARMUP_STEPS), sum(counts[steps:]) / steps]
    assert state.throughput()["train_interactions_per_second"] == pytest.approx(np.median(rates))


def test_the_time_of_an_epoch_is_that_of_training_and_evaluation_apart(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    trainer = make(epochs=2, clock=lambda: now)
    step = trainer._step

    def slow(starts: Any, lengths: Any) -> torch.Tensor:
        nonlocal now
        now += 1.0
        return step(starts, lengths)

    def slowly_ranked(*_: Any, **__: Any) -> Any:
        nonlocal now
        now += 1000.0
        return SimpleNamespace(per_user=lambda _: np.ones(1))

    monkeypatch.setattr(trainer, "_step", slow)
    monkeypatch.setattr(loop, "rank", slowly_ranked)
    state = trainer.run()
    assert [entry.evaluate_seconds for entry in state.history] == [1000.0, 1000.0]
    assert all(0 < entry.train_seconds < 1000 for entry in state.history)
    assert state.history[1].timed_seconds == state.history[1].train_seconds
    assert state.seconds == sum(entry.train_seconds + entry.evaluate_seconds for entry in state.history)


def test_throughput_is_the_median_of_the_epochs() -> None:
    epochs = [Epoch(n, 1.0, 0.1, seconds, 0.0, 60, 6, seconds) for n, seconds in ((1, 1.0), (2, 2.0), (3, 30.0))]
    assert TrainingState(epoch=3, history=epochs).throughput() == {
        "train_interactions_per_second": 30.0,
        "train_sequences_per_second": 3.0,
        "epoch_seconds": 2.0,
        "epoch_joules": None,
    }


def test_no_throughput_is_claimed_when_all_steps_were_warm_up(make: Make) -> None:
    trainer = make(epochs=2, batch_size=1000)
    throughput = trainer.run().throughput()
    assert throughput["train_interactions_per_second"] is None
    assert throughput["epoch_seconds"] is not None


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_a_loss_that_is_not_finite_is_an_error(rate: float, make: Make) -> None:
    with pytest.raises(Diverged, match="is not finite") as caught:
        make(learning_rate=rate, clip_norm=0.0).run()
    assert "learning_rate" in (caught.value.hint or "")


# Objectives and losses


def step_on_everything(trainer: Trainer) -> tuple[float, int, dict[str, torch.Tensor]]:
    """Loss, targets and gradients of one step on all rows of an epoch."""
    starts, lengths = trainer.objective.rows(trainer.sequences, trainer.protocol, np.random.default_rng(0))
    loss = trainer._step(starts, lengths)
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), int(trainer.objective.targets(lengths).sum()), gradients


@pytest.mark.parametrize("loss", ["cross-entropy", "gbce"])
def test_for_a_causal_model_both_objectives_are_the_same_function(
    loss: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No window is cut, nothing is random: every target has the same history in both.
    monkeypatch.setattr(losses, "other_items", lambda targets, *_: (targets % ITEMS + 1).unsqueeze(1))
    found = []
    for objective in OBJECTIVES:
        trainer = make("lrurec", objective=objective, loss=loss, clip_norm=0.0)
        trainer.protocol = Protocol(max_len=20)
        trainer.model.eval()
        found.append(step_on_everything(trainer))
    (one, targets, gradients), (other, as_many, others) = found
    assert targets == as_many == len(trainer.sequences.training_pairs()[0])
    assert one == pytest.approx(other, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_prefixes_are_trained_at_their_last_position_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make("sasrec", epochs=1, objective="prefix")
    model = trainer.model.eval()
    monkeypatch.setattr(model, "train", lambda: model)  # without dropout
    pad, loss = objectives.pad, losses.linear_cross_entropy
    rows: list[tuple[torch.Tensor, torch.Tensor]] = []
    seen = []

    def watch_rows(flat: Any, starts: Any, stops: Any) -> Any:
        items, mask = pad(flat, starts, stops)
        rows.append((torch.from_numpy(items), torch.from_numpy(stops - starts)))
        return items, mask

    def watch_loss(states: torch.Tensor, items: torch.Tensor, bias: Any, targets: torch.Tensor) -> torch.Tensor:
        histories, lengths = rows[-1]
        torch.testing.assert_close(states, at_last(model(histories, lengths), lengths))
        seen.extend(targets.tolist())
        return loss(states, items, bias, targets)

    monkeypatch.setattr(objectives, "pad", watch_rows)
    monkeypatch.setattr(losses, "linear_cross_entropy", watch_loss)
    trainer._pass(1)
    assert sorted(seen) == sorted(trainer.sequences.training_pairs()[1].tolist())


def plain_sampled_softmax(scores: Tensor, targets: Tensor, negatives: Negatives, training: TrainingConfig) -> Tensor:
    weights = torch.tensor([0.0] + [1.0] * ITEMS)
    if training.proposal == "log-uniform":
        counts = np.bincount(make_trainer().sequences.training_items(), minlength=ITEMS + 1)[1:]
        for place, item in enumerate(np.argsort(-counts, kind="stable"), start=1):
            weights[item + 1] = np.log((place + 1) / place)
    expected = training.negatives * weights / weights.sum()
    rows = []
    for row, target in zip(scores, targets.tolist(), strict=True):
        drawn = [row[item].exp() / expected[item] for item in negatives.ids.tolist() if item != target]
        rows.append((row[target].exp() + sum(drawn)).log() - row[target])
    return torch.stack(rows).mean()


def plain_uncorrected_softmax(scores: Tensor, targets: Tensor, negatives: Negatives, *_: Any) -> Tensor:
    ids = torch.cat([targets.unsqueeze(1), negatives.ids.expand(len(targets), -1)], dim=1)
    return -scores.gather(1, ids).log_softmax(1)[:, 0].mean()


def plain_binary(scores: Tensor, targets: Tensor, negatives: Negatives, training: TrainingConfig) -> Tensor:
    rate = training.negatives / (ITEMS - 1)
    t = training.calibration
    beta = rate * (t * (1 - 1 / rate) + 1 / rate) if training.loss == "gbce" else 1.0
    positive = -beta * scores.gather(1, targets.unsqueeze(1)).sigmoid().log()
    ids = negatives.ids.expand(len(targets), -1)
    others = -(1 - scores.gather(1, ids).sigmoid()).log() * (ids != targets.unsqueeze(1))
    return torch.cat([positive, others], dim=1).mean()


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "cross-entropy": lambda scores, targets, *_: -scores.log_softmax(1).gather(1, targets.unsqueeze(1)).mean(),
    "sampled-softmax": plain_sampled_softmax,
    "uncorrected-softmax": plain_uncorrected_softmax,
    "bce": plain_binary,
    "gbce": plain_binary,
}
OPTIONS = {"negatives": 9, "proposal": "log-uniform", "calibration": 0.2, "shared_negatives": True}
ACTING = {
    "cross-entropy": (),
    "sampled-softmax": ("negatives", "proposal"),
    "uncorrected-softmax": ("negatives", "shared_negatives"),
    "bce": ("negatives", "shared_negatives"),
    "gbce": ("negatives", "calibration", "shared_negatives"),
}


def loss_of_a_step(trainer: Trainer) -> tuple[float, float]:
    """The loss of a step on all rows, and what its formula gives for the same draws."""
    trainer.model.eval()
    starts, lengths = trainer.objective.rows(trainer.sequences, trainer.protocol, np.random.default_rng(0))
    batch = trainer.objective.batch(trainer.sequences, starts, lengths)
    with torch.no_grad():
        scores = trainer.model.score_states(trainer.objective.states(trainer.model, batch)).double()
    negatives = trainer.loss.draw(batch.targets, trainer.generator.manual_seed(3))
    expected = FORMULAS[trainer.training.loss](scores, batch.targets, negatives, trainer.training)
    trainer.generator.manual_seed(3)
    return float(trainer._step(starts, lengths).detach()), float(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("option", [None, *OPTIONS])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_option_is_its_formula_when_it_is_trained(
    loss: str, option: str | None, objective: str, make: Make
) -> None:
    plain = {"objective": objective, "loss": loss, "negatives": 5}
    found, expected = loss_of_a_step(make("recblr", **plain))
    if option is None:
        assert found == pytest.approx(expected, rel=1e-5)
        return
    other, expected = loss_of_a_step(make("recblr", **(plain | {option: OPTIONS[option]})))
    assert other == pytest.approx(expected, rel=1e-5)
    assert (other != found) == (option in ACTING[loss])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_padding_row_of_esasrec_stays_as_it_was_drawn(loss: str, make: Make) -> None:
    trainer = make("esasrec", loss=loss, negatives=5, weight_decay=0.0, learning_rate=0.1, epochs=2)
    weight = trainer.model.item_weights()
    before = weight.detach().clone()
    trainer.run()
    assert before[0].any()
    assert torch.equal(weight[0], before[0])
    assert not torch.equal(weight[1], before[1])


def test_beta2_is_that_of_adam(make: Make) -> None:
    assert {group["betas"] for each in make(beta2=0.5).optimizers for group in each.param_groups} == {(0.9, 0.5)}
    sparse = make(beta2=0.5, sparse_items=True, loss="sampled-softmax")
    assert {group["betas"] for each in sparse.optimizers for group in each.param_groups} == {(0.9, 0.5)}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_throughput_counts_targets_whatever_the_objective(objective: str, make: Make) -> None:
    trainer = make(objective=objective, batch_size=4, epochs=2)
    second = trainer.run().history[1]
    assert second.timed_interactions == len(trainer.sequences.training_pairs()[0])


@pytest.mark.parametrize(
    ("loss", "proposal"),
    [(loss, proposal) for loss in LOSSES for proposal in (PROPOSALS if loss == "sampled-softmax" else ["uniform"])],
)
def test_every_loss_falls_and_resumes_bit_for_bit(loss: str, proposal: str, make: Make, tmp_path: Path) -> None:
    sampling = {"loss": loss, "proposal": proposal, "negatives": 16}
    settings: dict[str, Any] = {**sampling, "objective": "prefix", "batch_size": 16, "learning_rate": 1e-2}
    straight = make(epochs=4, **settings)
    straight.run()
    assert straight.state.history[-1].loss < straight.state.history[0].loss
    (tmp_path / CHECKPOINT).unlink()
    for epochs in (2, 4):
        trainer = make(epochs=epochs, **settings)
        torch.manual_seed(epochs)
        trainer.resume()
        trainer.run()
    assert figures(trainer) == figures(straight)
    assert equal_weights(copy_of(trainer), copy_of(straight))


def test_negatives_are_drawn_anew_in_every_epoch_and_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = losses.other_items

    def watch(*arguments: Any) -> torch.Tensor:
        drawn.append(tuple(draw(*arguments).flatten().tolist()[:6]))
        return draw(*arguments)

    monkeypatch.setattr(losses, "other_items", watch)
    make(loss="bce", epochs=2).run()
    assert len(set(drawn)) == len(drawn) > 4


# Early stopping


def test_training_stops_after_patience_and_restores_the_best_epoch(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.25, 0.9])  # an equal value is not better
    kept = {}

    def keep(event: Event) -> None:
        if isinstance(event, EpochEnded):
            kept[event.epoch] = copy_of(trainer)

    trainer = make(epochs=50, patience=3, emit=keep)
    state = trainer.run()
    assert (state.epoch, state.best_epoch, state.best) == (5, 2, 0.3)
    assert not equal_weights(kept[2], kept[5])
    assert equal_weights(copy_of(trainer), kept[2])
    summary = state.summary(trainer.training)
    assert (summary["epochs"], summary["best_epoch"], summary["stopped_early"]) == (5, 2, True)
    assert len(summary["history"]) == 5
    two = state.history[:2]
    assert summary["seconds_to_best"] == sum(entry.train_seconds + entry.evaluate_seconds for entry in two)


def test_training_ends_with_the_epochs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.1, 0.2, 0.3])
    trainer = make(epochs=3, patience=2)
    state = trainer.run()
    assert (state.epoch, state.best_epoch, state.stopped_early(trainer.training)) == (3, 3, False)


def test_validation_on_a_sample_of_users_is_the_same_for_all_models_and_seeds(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []
    real = loop.rank

    def watch(model: Any, sequences: Any, examples: Any, *rest: Any, **options: Any) -> Any:
        judged.append(examples.users.tolist())
        return real(model, sequences, examples, *rest, **options)

    monkeypatch.setattr(loop, "rank", watch)
    for name, seed in (("lrurec", 0), ("gru4rec", 1)):
        trainer = make(name, epochs=2, validate_users=9)
        trainer.seed = seed
        trainer.run()
        (trainer.checkpoint or Path()).unlink()
    assert len({tuple(users) for users in judged}) == 1
    everyone = trainer.sequences.valid().users.tolist()
    assert judged[0] == sorted(set(judged[0]))
    assert len(judged[0]) == 9 < len(everyone)
    assert set(judged[0]) < set(everyone)
    for count in (0, len(everyone), 1000):
        assert make(validate_users=count).validation.users.tolist() == everyone


def test_validation_every_few_epochs_and_after_the_last(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.1, 0.3, 0.2])
    trainer = make(epochs=8, validate_every=3)
    state = trainer.run()
    validated = [(entry.epoch, round(entry.validation, 6)) for entry in state.history if entry.validation is not None]
    assert validated == [(3, 0.1), (6, 0.3), (8, 0.2)]
    assert state.best_epoch == 6
    again = make(epochs=8, validate_every=3)
    again.resume()
    assert again.state == state


def test_patience_waits_for_a_validation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.3, 0.2, 0.1, 0.1])
    trainer = make(epochs=50, patience=4, validate_every=3)
    state = trainer.run()
    assert (state.epoch, state.best_epoch) == (9, 3)  # 6 is 3 epochs later, 9 is 6
    assert state.stopped_early(trainer.training)


# Resuming


@pytest.mark.parametrize("name", NEURAL)
def test_a_training_that_is_stopped_after_every_epoch_ends_bit_for_bit_the_same(
    name: str, make: Make, tmp_path: Path
) -> None:
    straight = make(name)
    straight.run()
    (tmp_path / CHECKPOINT).unlink()
    resumed: list[int] = []
    for epochs in range(1, 5):
        trainer = make(
            name, epochs=epochs, emit=lambda event: resumed.append(event.epoch) if isinstance(event, Resumed) else None
        )
        torch.manual_seed(epochs)  # what was drawn before must not matter
        trainer.resume()
        trainer.run()
    assert resumed == [1, 2, 3]
    assert figures(trainer) == figures(straight)
    assert equal_weights(copy_of(trainer), copy_of(straight))
    assert equal_weights(trainer.best_weights, straight.best_weights)


def test_a_finished_training_resumes_with_nothing_to_do(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.3, 0.2, 0.1])
    first = make(epochs=3)
    first.run()
    again = make(epochs=3)
    assert again.resume() == pytest.approx(first.state.seconds)
    state = again.run()
    assert state == first.state
    assert equal_weights(copy_of(again), copy_of(first))
    assert (state.best_epoch, state.peak_memory) == (1, 7)


@pytest.mark.parametrize(("before", "after"), [(7, 3), (3, 7)])
def test_the_peak_is_that_of_all_processes_that_trained(before: int, after: int, make: Make) -> None:
    make(epochs=1, peak_memory=lambda: before).run()
    trainer = make(epochs=2, peak_memory=lambda: after)
    trainer.resume()
    assert trainer.run().peak_memory == 7


def test_a_training_without_a_checkpoint_writes_nothing(make: Make, tmp_path: Path) -> None:
    trainer = make(epochs=1)
    plain = Trainer(trainer.model, trainer.sequences, training=trainer.training, protocol=trainer.protocol)
    assert plain.resume() == 0.0
    assert plain.run().epoch == 1
    assert not list(tmp_path.iterdir())


def test_without_a_checkpoint_training_starts_at_the_beginning(make: Make) -> None:
    trainer = make()
    assert trainer.resume() == 0.0
    assert trainer.state.epoch == 0


def test_the_memory_of_training_is_said_before_it_begins(make: Make) -> None:
    told: list[Event] = []
    trainer = make(emit=told.append)
    (needed,) = (event for event in told if isinstance(event, MemoryNeeded))
    trainer.run()
    moments = sum(value.nbytes for state in trainer.optimizers[0].state.values() for value in state.values())
    steps = sum(state["step"].nbytes for state in trainer.optimizers[0].state.values())
    weights = sum(parameter.nbytes for parameter in trainer.model.parameters())
    assert needed.held == moments - steps + 2 * weights  # gradients, and the best epoch
    assert needed.free > needed.held
    rows = {"loss": "sampled-softmax", "sparse_items": True, "emit": told.append}
    trainer = make(**rows)
    table = sum(parameter.nbytes for parameter in trainer.table.parameters) if trainer.table else 0
    assert isinstance(told[-1], MemoryNeeded)
    assert told[-1].held == needed.held - table > 0


def test_a_training_that_does_not_fit_is_refused_before_it_begins(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(DEVICES["cpu"]), "free_memory", lambda *_: 1000)
    with pytest.raises(SeqbenchError, match=r"among 20 items holds .* kB .* and 1\.0 kB are free on cpu") as caught:
        make()
    assert "--set loss=sampled-softmax --set sparse_items=true" in (caught.value.hint or "")
