"""What every registered model must do, in each of its forms. Being registered is being tested."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seqbench.data.sequences import Sequences, split_sequences
from seqbench.errors import UsageError
from seqbench.evaluation.ranking import rank
from seqbench.models import MODELS, load_model
from seqbench.models.base import (
    CountingModel,
    IncrementalModel,
    Model,
    NeuralConfig,
    SequenceModel,
    State,
    TrainingConfig,
)
from seqbench.models.stack import RecurrentStack
from seqbench.models.times import Times
from seqbench.protocol import Protocol
from seqbench.training.loop import Trainer
from tests.models.forms import FORMS, part, times_for

ITEMS, MAX_LEN = 30, 12
NEURAL = [form for form, (cls, _) in FORMS.items() if issubclass(cls, SequenceModel)]
CAUSAL = [form for form in NEURAL if FORMS[form][1].causal]
TIMED = [form for form in NEURAL if FORMS[form][1].uses_times]
INCREMENTAL = [form for form in NEURAL if issubclass(FORMS[form][0], IncrementalModel) and FORMS[form][1].incremental]


def cyclic(users: int = 48, items: int = 16, length: int = 9) -> Sequences:
    """Item i is always followed by item i + 1, every item is: the next item is certain."""
    starts = np.arange(users) * 7
    flat = (starts[:, None] + np.arange(length)) % items + 1
    ids = np.repeat(np.arange(1, users + 1), length).astype(np.int32)
    return split_sequences(ids, flat.ravel().astype(np.int32), np.arange(ids.size), split="leave-one-out")


def make(form: str, max_len: int = MAX_LEN) -> Model:
    cls, config = FORMS[form]
    model = cls(ITEMS, max_len, config)
    if isinstance(model, CountingModel):
        model.fit(cyclic(items=ITEMS))
    return model.eval()


def histories(batch: int = 5, length: int = MAX_LEN) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rows padded on the right, of all lengths from 1 to the longest."""
    lengths = torch.linspace(1, length, batch).long()
    items = torch.randint(1, ITEMS + 1, (batch, length))
    return items * (torch.arange(length) < lengths.unsqueeze(1)), lengths


def scores_at_all(model: SequenceModel, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The scores at every position but padding, as training at all positions takes them."""
    return model.score_states(model(items, lengths, *times_for(model, items))[items > 0])


def scores_at_last(model: Model, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The scores at the last items, for which only what they need is computed."""
    return model.score(items, lengths, *times_for(model, items))


PATHS = pytest.mark.parametrize("path", [scores_at_all, scores_at_last], ids=["all positions", "last item"])


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Rounding in float32; that of numbers of the size of the largest, where that is above 1."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * max(1.0, float(expected.detach().abs().max())))


def numbers(state: State) -> int:
    """How many numbers a state holds."""
    return sum(each.numel() for each in state)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "popularity"])
def test_learns_that_item_i_is_followed_by_the_next(form: str, tmp_path: Path) -> None:
    sequences = cyclic()
    cls, config = FORMS[form]
    if isinstance(config, NeuralConfig):
        config = replace(config, hidden_size=min(config.hidden_size, 32))  # enough for this, and faster
    torch.manual_seed(0)
    model = cls(sequences.items, 7, config)
    protocol = Protocol(max_len=7, removed="nothing")  # so that the whole catalogue competes
    if isinstance(model, CountingModel):
        model.fit(sequences)
    else:
        assert isinstance(model, SequenceModel)
        # As many targets in a batch either way.
        objective, batch_size = ("all-positions", 12) if config.causal else ("prefix", 12 * 7)
        Trainer(
            model,
            sequences,
            training=TrainingConfig(
                epochs=30, patience=6, batch_size=batch_size, learning_rate=1e-2, objective=objective
            ),
            protocol=protocol,
            seed=0,
            checkpoint=tmp_path / "checkpoint.safetensors",
        ).run()
    ranks = rank(model, sequences, sequences.test(), protocol)
    assert (ranks.better == 0).all()
    assert (ranks.ties == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_padding_never_influences_scores(form: str) -> None:
    model = make(form, max_len=2 * MAX_LEN)
    items, lengths = histories()
    more = torch.cat([items, torch.zeros_like(items)], dim=1)
    assert_close(scores_at_last(model, more, lengths), scores_at_last(model, items, lengths))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_equals_its_rows_one_by_one(form: str) -> None:
    model = make(form)
    items, lengths = histories()
    together = scores_at_last(model, items, lengths)
    for row, length in enumerate(lengths):
        alone = scores_at_last(model, items[row : row + 1, :length], lengths[row : row + 1])
        assert_close(alone[0], together[row])


@pytest.mark.parametrize("form", NEURAL)
def test_last_states_are_those_of_the_whole_sequence(form: str) -> None:
    model = make(form)
    assert isinstance(model, SequenceModel)
    items, lengths = histories()
    times = times_for(model, items)
    states = model(items, lengths, *times)
    expected = torch.stack([states[row, length - 1] for row, length in enumerate(lengths)])
    actual = model.last_states(items, lengths, *times)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(expected)
    parameters = list(model.parameters())
    gradients = (
        torch.autograd.grad((each * weights).sum(), parameters, allow_unused=True) for each in (actual, expected)
    )
    for of_actual, of_expected in zip(*gradients, strict=True):
        torch.testing.assert_close(of_actual, of_expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", CAUSAL)
def test_later_items_never_change_earlier_states(form: str) -> None:
    model = make(form)
    items = torch.randint(1, ITEMS + 1, (3, MAX_LEN))
    lengths = torch.full((3,), MAX_LEN)
    before = model(items, lengths, *times_for(model, items))
    for position in range(1, MAX_LEN):
        changed = items.clone()
        changed[:, position] = changed[:, position] % ITEMS + 1
        after = model(changed, lengths, *times_for(model, changed))  # whose times differ from there on as well
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(after[:, position], before[:, position])


@pytest.mark.parametrize("form", TIMED)
def test_later_times_never_change_earlier_states_and_padding_has_none(form: str) -> None:
    model = make(form)
    items, lengths = histories()
    (times,) = times_for(model, items)
    before = model(items, lengths, times)
    for position in range(1, MAX_LEN):
        for changed in (
            times._replace(events=times.later(slice(None), position).events),
            times._replace(requests=times.later(slice(None), position).requests),
        ):
            after = model(items, lengths, changed)
            if FORMS[form][1].causal:
                torch.testing.assert_close(after[:, :position], before[:, :position], rtol=1e-5, atol=1e-6)
            for row, length in enumerate(lengths):
                same = torch.allclose(after[row, :length], before[row, :length], rtol=1e-5, atol=1e-6)
                assert same if position >= length else True


@pytest.mark.parametrize("form", TIMED)
def test_each_time_matters_and_when_all_of_it_was_does_not(form: str) -> None:
    model = make(form)
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights may let hardly anything of the times through
            parameter += 0.1 * torch.randn_like(parameter)
    items, lengths = torch.randint(1, ITEMS + 1, (3, MAX_LEN)), torch.full((3,), MAX_LEN)
    (times,) = times_for(model, items)
    before = model.score(items, lengths, times)  # type: ignore[call-arg]
    at_other_gaps = times._replace(events=times.events - 10**6 * torch.arange(MAX_LEN, 0, -1))
    assert not torch.allclose(model.score(items, lengths, at_other_gaps), before)  # type: ignore[call-arg]
    shifted = Times(times.events + 10**8, times.requests + 10**8)
    same = torch.allclose(model.score(items, lengths, shifted), before, rtol=1e-5, atol=1e-6)  # type: ignore[call-arg]
    assert same != FORMS[form][1].absolute_times


@pytest.mark.parametrize("form", INCREMENTAL)
def test_steps_equal_the_whole_sequence(form: str) -> None:
    model = make(form)
    assert isinstance(model, IncrementalModel)
    items = torch.randint(1, ITEMS + 1, (3, MAX_LEN))
    times = times_for(model, items)
    whole = model(items, torch.full((3,), MAX_LEN), *times)
    state = model.initial_state(3)
    for t in range(MAX_LEN):
        states, state = model.step(items[:, t], state, *part(times, slice(None), t))
        torch.testing.assert_close(states, whole[:, t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", INCREMENTAL)
def test_steps_go_on_from_a_history_that_was_encoded_at_once(form: str) -> None:
    model = make(form)
    assert isinstance(model, IncrementalModel)
    items = torch.randint(1, ITEMS + 1, (3, MAX_LEN))
    times = times_for(model, items)
    whole = model(items, torch.full((3,), MAX_LEN), *times)
    for known in (1, 2, MAX_LEN - 1):
        state = model.prefill(items[:, :known], None, *part(times, slice(None), slice(known)))
        states, _ = model.step(items[:, known], state, *part(times, slice(None), known))
        torch.testing.assert_close(states, whole[:, known], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", INCREMENTAL)
def test_histories_of_different_lengths_are_encoded_in_one_pass_to_what_steps_lead_to(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(form)
    assert isinstance(model, IncrementalModel)
    lengths = torch.tensor([0, 1, 3, MAX_LEN - 1])
    items = torch.randint(1, ITEMS + 1, (4, MAX_LEN)) * (torch.arange(MAX_LEN) < lengths.unsqueeze(1))
    with torch.no_grad():
        times = times_for(model, items)
        stepped = IncrementalModel._prefill(model, items, model.initial_state(4), lengths, *times)
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "step", None)
            at_once = model.prefill(items, lengths, *times)
        for found, start in zip(at_once, model.initial_state(1), strict=True):
            assert found.shape == (4, *start.shape[1:])
        if not model.state_grows:  # whose buffers hold anything behind their ends
            torch.testing.assert_close(at_once, stepped, rtol=1e-5, atol=1e-6)
        following = torch.randint(1, ITEMS + 1, (4,))
        all_items = torch.cat([items, items[:, :1] * 0], dim=1).scatter(1, lengths.unsqueeze(1), following.unsqueeze(1))
        states, _ = model.step(following, at_once, *part(times_for(model, all_items), torch.arange(4), lengths))
        for row, length in enumerate(lengths):
            alone = all_items[row : row + 1, : length + 1]
            found = model(alone, lengths[row : row + 1] + 1, *times_for(model, alone))[0, -1]
            torch.testing.assert_close(states[row], found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [form for form in INCREMENTAL if issubclass(FORMS[form][0], RecurrentStack)])
def test_blocks_go_on_from_the_state_after_several_positions(form: str) -> None:
    model = make(form)
    assert isinstance(model, RecurrentStack)
    x = torch.randn(3, MAX_LEN, FORMS[form][1].hidden_size)  # type: ignore[attr-defined]
    for block in model.layers:
        whole, _ = block.mix(x)
        for first in (1, 2, 5):
            start, state = block.mix(x[:, :first], state=block.initial_state(3))
            rest, _ = block.mix(x[:, first:], state=state)
            torch.testing.assert_close(torch.cat([start, rest], dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", INCREMENTAL)
def test_a_step_can_be_repeated_with_another_item(form: str) -> None:
    model = make(form)
    assert isinstance(model, IncrementalModel)
    items = torch.randint(1, ITEMS + 1, (3, 6))
    state = model.prefill(items[:, :5], None, *part(times_for(model, items), slice(None), slice(5)))
    for _ in range(3):
        items[:, 5] = items[:, 5] % ITEMS + 1
        times = times_for(model, items)
        states, _ = model.step(items[:, 5], state, *part(times, slice(None), 5))
        torch.testing.assert_close(states, model(items, torch.full((3,), 6), *times)[:, 5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", INCREMENTAL)
def test_a_state_has_a_constant_size_and_a_history_no_end_unless_the_model_says_so(form: str) -> None:
    model = make(form)
    assert isinstance(model, IncrementalModel)
    items = torch.randint(1, ITEMS + 1, (3, 3 * MAX_LEN))
    times = times_for(model, items)
    state = model.prefill(items[:, :MAX_LEN], None, *part(times, slice(None), slice(MAX_LEN)))
    if not model.state_grows:
        assert numbers(state) == numbers(model.initial_state(3))
    if model.ends_at_max_len:
        with pytest.raises(ValueError, match=f"max_len {MAX_LEN}"):
            model.step(items[:, MAX_LEN], state, *part(times, slice(None), MAX_LEN))
        return
    for t in range(MAX_LEN, 3 * MAX_LEN):
        states, state = model.step(items[:, t], state, *part(times, slice(None), t))
    assert numbers(state) == numbers(model.initial_state(3))
    whole = model(items, torch.full((3,), 3 * MAX_LEN), *times)
    torch.testing.assert_close(states, whole[:, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", NEURAL)
@pytest.mark.parametrize("lengths", [[1, 1, 1], [MAX_LEN] * 3, [1, MAX_LEN, 5]], ids=str)
@PATHS
def test_loss_and_gradients_are_finite_and_reach_every_parameter(form: str, path: Any, lengths: list[int]) -> None:
    model = make(form).train()
    assert isinstance(model, SequenceModel)
    rows = torch.tensor(lengths)
    items = torch.randint(1, ITEMS + 1, (3, max(lengths))) * (torch.arange(max(lengths)) < rows.unsqueeze(1))
    loss = path(model, items, rows).logsumexp(dim=1).sum()
    loss.backward()
    assert torch.isfinite(loss)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), parameter_name
        if min(lengths) == MAX_LEN:  # a lone item has nothing to attend to or to remember
            assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("form", NEURAL)
def test_the_same_seed_builds_the_same_model(form: str) -> None:
    torch.manual_seed(7)
    first = make(form).state_dict()
    torch.manual_seed(7)
    second = make(form).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("form", NEURAL)
@PATHS
def test_the_same_seed_gives_the_same_gradients(form: str, path: Any) -> None:
    model = make(form).train()
    assert isinstance(model, SequenceModel)
    items, lengths = histories()
    found = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        loss = path(model, items, lengths).logsumexp(dim=1).sum()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(found[0], found[1], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(found[0], found[2], strict=True))  # dropout


@pytest.mark.parametrize("form", FORMS)
def test_survives_saving_and_loading_as_safetensors(form: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = make(form)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == set(model.state_dict())
    assert all(torch.equal(stored[key], value) for key, value in model.state_dict().items())
    cls, config = FORMS[form]
    other = cls(ITEMS, MAX_LEN, config).eval()
    other.load_state_dict(stored)
    items, lengths = histories()
    assert torch.equal(scores_at_last(other, items, lengths), scores_at_last(model, items, lengths))


@pytest.mark.parametrize("form", NEURAL)
@PATHS
def test_runs_under_bfloat16_autocast(form: str, path: Any) -> None:
    model = make(form)
    items, lengths = histories()
    exact = path(model, items, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = path(model, items, lengths).float()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("form", INCREMENTAL)
def test_steps_run_under_bfloat16_autocast(form: str) -> None:
    model = make(form)
    assert isinstance(model, IncrementalModel)
    items = torch.randint(1, ITEMS + 1, (3,))
    times = part(times_for(model, items.unsqueeze(1)), slice(None), 0)

    def twice() -> torch.Tensor:
        _, state = model.step(items, model.initial_state(3), *times)
        return model.score_states(model.step(items, state, *times)[0]).float()

    exact = twice()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = twice()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("form", NEURAL)
def test_matrices_and_embeddings_are_the_parameters_that_weight_decay_is_for(form: str) -> None:
    model = make(form)
    assert isinstance(model, SequenceModel)
    modules = dict(model.named_modules())
    for key, _ in model.named_parameters():
        owner, _, kind = key.rpartition(".")
        plain = kind == "weight" and isinstance(modules[owner], nn.Linear | nn.Embedding)
        decays = not any(part in key for part in model.no_weight_decay)
        assert decays or not plain, key
        assert not (decays and (kind == "bias" or isinstance(modules[owner], nn.LayerNorm))), key


@pytest.mark.parametrize(
    ("name", "exempt"),
    [
        ("recblr", {"blocks.0.decay"}),
        ("mamba4rec", {"blocks.0.mamba.decay_log", "blocks.0.mamba.skip"}),
        ("sigma", {"blocks.0.mamba.decay_log", "blocks.0.mamba.skip", "blocks.0.shares"}),
    ],
)
def test_recurrences_keep_their_decay_from_weight_decay(name: str, exempt: set[str]) -> None:
    model = make(name)
    assert isinstance(model, SequenceModel)
    found = {key for key, _ in model.named_parameters() if any(part in key for part in model.no_weight_decay)}
    assert {key for key in found if "blocks.0." in key and "bias" not in key and "norm" not in key} == exempt


@pytest.mark.parametrize("name", MODELS)
def test_describes_itself(name: str) -> None:
    cls = load_model(name)
    assert cls.summary
    assert cls.paper
    assert (cls.training_defaults is None) == issubclass(cls, CountingModel)


def test_an_unknown_model_is_named_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean lrurec"):
        load_model("lrurek")
