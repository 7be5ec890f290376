"""What every registered model must do. A model that is registered is tested by being registered."""

from pathlib import Path

import numpy as np
import pytest
import torch

from seqbench.data.sequences import Sequences, split_sequences
from seqbench.errors import UsageError
from seqbench.evaluate import rank
from seqbench.models import MODELS, load_model
from seqbench.models.base import CountingModel, IncrementalModel, Model, SequenceModel, TrainingConfig
from seqbench.results import Protocol
from seqbench.train import Trainer

ITEMS, MAX_LEN = 30, 12
NEURAL = [name for name in MODELS if issubclass(load_model(name), SequenceModel)]
CAUSAL = [name for name in NEURAL if load_model(name).causal]
INCREMENTAL = [name for name in NEURAL if issubclass(load_model(name), IncrementalModel)]


def cyclic(users: int = 60, items: int = ITEMS, length: int = 14) -> Sequences:
    """Item i is always followed by item i + 1: the next item is certain."""
    starts = np.arange(users) * 7
    flat = (starts[:, None] + np.arange(length)) % items + 1
    ids = np.repeat(np.arange(1, users + 1), length).astype(np.int32)
    return split_sequences(ids, flat.ravel().astype(np.int32), np.arange(ids.size), split="leave-one-out")


def make(name: str, max_len: int = MAX_LEN) -> Model:
    cls = load_model(name)
    model = cls(ITEMS, max_len, cls.Config())
    if isinstance(model, CountingModel):
        model.fit(cyclic())
    return model.eval()


def histories(batch: int = 5, length: int = MAX_LEN) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rows padded on the right, of all lengths from 1 to the longest."""
    lengths = torch.linspace(1, length, batch).long()
    items = torch.randint(1, ITEMS + 1, (batch, length))
    return items * (torch.arange(length) < lengths.unsqueeze(1)), lengths


@pytest.mark.parametrize("name", [name for name in MODELS if name != "popularity"])
def test_learns_that_item_i_is_followed_by_the_next(name: str, tmp_path: Path) -> None:
    sequences = cyclic()
    cls = load_model(name)
    torch.manual_seed(0)
    model = cls(ITEMS, MAX_LEN, cls.Config())
    protocol = Protocol(max_len=MAX_LEN)
    if isinstance(model, CountingModel):
        model.fit(sequences)
    else:
        assert isinstance(model, SequenceModel)
        assert cls.training_defaults is not None
        Trainer(
            model,
            sequences,
            training=TrainingConfig(
                epochs=60, patience=60, batch_size=16, learning_rate=3e-3, objective=cls.training_defaults.objective
            ),
            protocol=protocol,
            seed=0,
            device=torch.device("cpu"),
            checkpoint=tmp_path / "checkpoint.safetensors",
            emit=lambda *_, **__: None,
            peak_memory=lambda: 0,
        ).run()
    ranks = rank(model, sequences, sequences.test(), protocol)
    assert (ranks.better == 0).all()
    assert (ranks.ties == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_padding_never_influences_scores(name: str) -> None:
    model = make(name, max_len=2 * MAX_LEN)
    items, lengths = histories()
    more = torch.cat([items, torch.zeros_like(items)], dim=1)
    torch.testing.assert_close(model.score(more, lengths), model.score(items, lengths), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_equals_its_rows_one_by_one(name: str) -> None:
    model = make(name)
    items, lengths = histories()
    together = model.score(items, lengths)
    for row, length in enumerate(lengths):
        alone = model.score(items[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_later_items_never_change_earlier_states(name: str) -> None:
    model = make(name)
    items = torch.randint(1, ITEMS + 1, (3, MAX_LEN))
    lengths = torch.full((3,), MAX_LEN)
    before = model(items, lengths)
    for position in range(1, MAX_LEN):
        changed = items.clone()
        changed[:, position] = changed[:, position] % ITEMS + 1
        after = model(changed, lengths)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(after[:, position], before[:, position])


@pytest.mark.parametrize("name", INCREMENTAL)
def test_steps_equal_the_whole_sequence_with_a_state_of_constant_size(name: str) -> None:
    model = make(name)
    assert isinstance(model, IncrementalModel)
    items = torch.randint(1, ITEMS + 1, (3, MAX_LEN))
    whole = model(items, torch.full((3,), MAX_LEN))
    state = model.initial_state(3)
    sizes = set()
    for t in range(MAX_LEN):
        states, state = model.step(items[:, t], state)
        torch.testing.assert_close(states, whole[:, t], rtol=1e-5, atol=1e-5)
        sizes.add(sum(tensor.numel() for tensor in state))
    assert len(sizes) == 1


@pytest.mark.parametrize("name", NEURAL)
@pytest.mark.parametrize("lengths", [[1, 1, 1], [MAX_LEN] * 3, [1, MAX_LEN, 5]], ids=str)
def test_loss_and_gradients_are_finite_and_reach_every_parameter(name: str, lengths: list[int]) -> None:
    model = make(name).train()
    assert isinstance(model, SequenceModel)
    rows = torch.tensor(lengths)
    items = torch.randint(1, ITEMS + 1, (3, max(lengths))) * (torch.arange(max(lengths)) < rows.unsqueeze(1))
    loss = model.score(items, rows).logsumexp(dim=1).sum()
    loss.backward()
    assert torch.isfinite(loss)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", NEURAL)
def test_the_same_seed_builds_the_same_model(name: str) -> None:
    torch.manual_seed(7)
    first = make(name).state_dict()
    torch.manual_seed(7)
    second = make(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_survives_saving_and_loading_as_safetensors(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = make(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == set(model.state_dict())
    assert all(torch.equal(stored[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NEURAL)
def test_runs_under_bfloat16_autocast(name: str) -> None:
    model = make(name)
    items, lengths = histories()
    exact = model.score(items, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.score(items, lengths).float()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_describes_itself(name: str) -> None:
    cls = load_model(name)
    assert cls.summary
    assert cls.paper
    assert (cls.training_defaults is None) == issubclass(cls, CountingModel)


def test_an_unknown_model_is_named_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean lrurec"):
        load_model("lrurek")
