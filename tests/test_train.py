"""Training: batches, resuming bit for bit, early stopping, checkpoints that cannot be trusted."""

import dataclasses
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seqbench import losses
from seqbench.data.sequences import Sequences, split_sequences
from seqbench.errors import Diverged, SeqbenchError, StorageError
from seqbench.losses import LOSSES, PROPOSALS, SampledSoftmax
from seqbench.models import MODELS, load_model
from seqbench.models.base import SequenceModel, TrainingConfig, at_last
from seqbench.protocol import Protocol
from seqbench.training import loop, objectives
from seqbench.training.batches import batches
from seqbench.training.loop import WARMUP_STEPS, Trainer, derived_seed
from seqbench.training.objectives import OBJECTIVES

ITEMS, MAX_LEN = 20, 6
NEURAL = [name for name in MODELS if issubclass(load_model(name), SequenceModel)]
CHECKPOINT = "checkpoint.safetensors"

Make = Callable[..., Trainer]


def random_sequences(users: int = 30, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, ITEMS + 1, rng.integers(4, 14)) for _ in range(users)]
    ids = np.repeat(np.arange(1, users + 1), [len(history) for history in histories]).astype(np.int32)
    flat = np.concatenate([*histories]).astype(np.int32)
    flat[0] = ITEMS
    return split_sequences(ids, flat, np.arange(len(flat)), split="leave-one-out")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that makes a trainer over always the same data, seed and checkpoint."""

    def made(
        name: str = "lrurec",
        *,
        emit: Callable[..., None] = lambda *_, **__: None,
        clock: Callable[[], float] = time.perf_counter,
        **changes: Any,
    ) -> Trainer:
        cls = load_model(name)
        torch.manual_seed(derived_seed(0, 0))
        model = cls(ITEMS, MAX_LEN, dataclasses.replace(cls.Config(), hidden_size=8, layers=1))
        assert isinstance(model, SequenceModel)
        assert cls.training_defaults is not None
        objective = changes.setdefault("objective", cls.training_defaults.objective)
        batch_size = 8 if objective == "all-positions" else 8 * MAX_LEN  # as many targets either way
        defaults = {"epochs": 4, "patience": 50, "batch_size": batch_size, "learning_rate": 3e-3, "clip_norm": 5.0}
        return Trainer(
            model,
            random_sequences(),
            training=TrainingConfig(**(defaults | changes)),
            protocol=Protocol(max_len=MAX_LEN),
            seed=0,
            checkpoint=tmp_path / CHECKPOINT,
            emit=emit,
            peak_memory=lambda: 7,
            clock=clock,
        )

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


def test_derived_seeds_differ() -> None:
    seeds = {derived_seed(seed, epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 1 << 63 for seed in seeds)


# Learning


@pytest.mark.parametrize("name", NEURAL)
def test_the_loss_falls(name: str, make: Make) -> None:
    trainer = make(name, epochs=8, learning_rate=1e-2)
    losses = [entry.loss for entry in trainer.run().history]
    assert losses[-1] < losses[0] - 0.05
    assert losses[0] == pytest.approx(np.log(ITEMS + 1), abs=0.5)


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
    step = trainer.optimizer.step

    def watch() -> None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        step()

    trainer.optimizer.step = watch  # type: ignore[assignment, method-assign]
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
    trainer.optimizer.step()
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


def test_the_most_frequent_item_of_training_is_proposed_most_often(make: Make) -> None:
    trainer = make(loss="sampled-softmax", proposal="log-uniform")
    counts = np.bincount(trainer.sequences.training_items(), minlength=ITEMS + 1)
    assert isinstance(trainer.loss, SampledSoftmax)
    probabilities = trainer.loss.proposal.log_probabilities.exp().numpy()
    assert probabilities[0] == 0
    assert probabilities.argmax() == counts.argmax()
    assert probabilities.max() == pytest.approx(np.log(2) / np.log(ITEMS + 1))


# Early stopping


def test_training_stops_after_patience_and_restores_the_best_epoch(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.25, 0.9])  # an equal value is not better
    kept = {}

    def keep(event: str, **fields: Any) -> None:
        kept[fields["epoch"]] = copy_of(trainer)

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
        trainer = make(name, epochs=epochs, emit=lambda event, **f: event == "resumed" and resumed.append(f["epoch"]))
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


def test_without_a_checkpoint_training_starts_at_the_beginning(make: Make) -> None:
    trainer = make()
    assert trainer.resume() == 0.0
    assert trainer.state.epoch == 0


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def damage(path: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(path.with_name("exploded"))))
    elif how == "torch":
        torch.save(Bomb(path.with_name("exploded")), path)
    else:
        tensors = load_file(path)
        state = json.dumps({"epoch": 1, "best_epoch": 1, "best": 0.5, "seconds": 1.0, "peak_memory": 1, "history": []})
        if how == "no state":
            save_file(tensors, path)
        elif how == "no history":
            save_file(tensors, path, metadata={"state": '{"epoch": 1}'})
        elif how == "other fields":
            save_file(tensors, path, metadata={"state": '{"epok": 1, "history": []}'})
        elif how == "missing weights":
            kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("model/")}
            save_file(kept, path, metadata={"state": state})
        elif how == "missing best":
            kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("best/")}
            save_file(kept, path, metadata={"state": state})
        elif how == "other shapes":
            save_file({n: torch.zeros(3) for n in tensors}, path, metadata={"state": state})
        else:
            raise AssertionError(how)


@pytest.mark.parametrize(
    "how",
    [
        *("truncated", "empty", "zeros", "pickle", "torch"),
        *("no state", "no history", "other fields", "missing weights", "missing best", "other shapes"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_never_run(how: str, make: Make, tmp_path: Path) -> None:
    make(epochs=1).run()
    damage(tmp_path / CHECKPOINT, how)
    with pytest.raises(SeqbenchError, match=r"checkpoint\.safetensors is damaged") as caught:
        make().resume()
    assert "--force" in (caught.value.hint or "")
    assert not (tmp_path / "exploded").exists()


def test_the_bomb_of_these_tests_would_explode(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def test_a_full_disk_keeps_the_checkpoint_of_the_epoch_before(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from safetensors import torch as stored

    make(epochs=1).run()
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(stored, "save_file", full)
    trainer = make(epochs=2)
    trainer.resume()
    with pytest.raises(StorageError, match="The disk is full"):
        trainer.run()
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
