"""What `official_quirks` changes, and that it is off otherwise."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from seqbench.models import load_model
from seqbench.models.mamba4rec import Mamba4Rec, Mamba4RecConfig
from seqbench.models.recblr import RecBLR, RecBLRConfig
from seqbench.models.sigma import SIGMA, SIGMAConfig, flipped_order


def test_recblr_depends_on_max_len_with_the_official_padding_only() -> None:
    items, lengths = torch.randint(1, 11, (3, 5)), torch.full((3,), 5)
    outputs = {}
    for quirks in (False, True):
        for max_len in (5, 6, 8):  # 3, 2 and no steps short of a power of two
            torch.manual_seed(0)
            model = RecBLR(10, max_len, RecBLRConfig(official_quirks=quirks)).eval()
            outputs[quirks, max_len] = model(items, lengths)
    assert torch.equal(outputs[False, 5], outputs[False, 6])
    assert torch.equal(outputs[False, 5], outputs[True, 8])
    assert not torch.allclose(outputs[True, 5], outputs[True, 6], atol=1e-4)
    assert not torch.allclose(outputs[True, 6], outputs[True, 8], atol=1e-4)


def test_recblr_steps_start_from_the_state_of_the_official_padding() -> None:
    model = RecBLR(10, 5, RecBLRConfig(official_quirks=True)).eval()
    items = torch.randint(1, 11, (3, 5))
    whole = model(items, torch.full((3,), 5))
    state = model.initial_state(3)
    for t in range(5):
        states, state = model.step(items[:, t], state)
        torch.testing.assert_close(states, whole[:, t], rtol=1e-5, atol=1e-5)


def test_mamba4rec_spares_the_step_sizes_unless_told_to_initialise_as_the_official_code() -> None:
    own, official = (Mamba4Rec(10, 5, Mamba4RecConfig(official_quirks=quirks)) for quirks in (False, True))
    steps = [F.softplus(model.blocks[0].mamba.step_projection.bias) for model in (own, official)]
    assert steps[0].max() <= 0.1001
    torch.testing.assert_close(steps[1], torch.full_like(steps[1], 2.0).log())
    spread = [model.blocks[0].mamba.in_projection.weight.std() for model in (own, official)]
    assert spread[0] > 0.05
    assert 0.018 < spread[1] < 0.022
    for model in (own, official):
        assert 0.018 < model.blocks[0].feed_forward.inner.weight.std() < 0.022
        assert (model.blocks[0].feed_forward.inner.bias == 0).all()


@pytest.mark.parametrize("name", ["glintru", "linrec", "sigma"])
def test_padding_takes_part_with_official_quirks_only(name: str) -> None:
    cls = load_model(name)
    items, lengths = torch.randint(1, 11, (3, 4)), torch.full((3,), 4)
    for quirks in (False, True):
        scores = []
        for max_len in (6, 9):
            torch.manual_seed(0)
            model = cls(10, 9, replace(cls.Config(), official_quirks=quirks)).eval()
            model.max_len = max_len
            scores.append(model.score(items, lengths))
        assert torch.allclose(*scores, rtol=1e-4, atol=1e-6) != quirks


@pytest.mark.parametrize("name", ["glintru", "linrec", "sigma"])
def test_with_official_quirks_every_row_is_padded_to_max_len(name: str) -> None:
    cls = load_model(name)
    model = cls(10, 9, replace(cls.Config(), official_quirks=True)).eval()
    items = torch.randint(1, 11, (3, 6))
    lengths = torch.tensor([3, 5, 6])
    items *= torch.arange(6) < lengths.unsqueeze(1)
    scores, states = model.score(items, lengths), model(items, lengths)
    for padded in (6, 9):
        rows = F.pad(items, (0, padded - 6))
        torch.testing.assert_close(model.score(rows, lengths), scores)
        torch.testing.assert_close(model(rows, lengths)[:, :6], states)
    alone = model.score(items[:1, :3], lengths[:1])
    torch.testing.assert_close(alone, scores[:1])
    assert model(items[:1, :3], lengths[:1]).shape == (1, 3, states.shape[2])


@pytest.mark.parametrize("name", ["glintru", "linrec"])
def test_a_causal_form_has_no_official_quirks(name: str) -> None:
    with pytest.raises(ValueError, match="no causal form"):
        load_model(name).Config(causal=True, official_quirks=True)


def test_the_first_positions_are_reversed_and_the_others_stay() -> None:
    order = flipped_order(5, torch.tensor([0, 1, 3, 5]))
    assert order.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [2, 1, 0, 3, 4], [4, 3, 2, 1, 0]]


def test_sigma_reverses_all_but_the_last_items_of_each_history() -> None:
    lengths = torch.tensor([2, 5, 6, 9])
    items = torch.randint(1, 11, (4, 9)) * (torch.arange(9) < lengths.unsqueeze(1))
    scores = {}
    for kept in (1, 5, 9):
        torch.manual_seed(0)
        scores[kept] = SIGMA(10, 9, SIGMAConfig(kept=kept)).eval().score(items, lengths)
    # Five items are kept of five; of six the first alone is "reversed"; of nine the first four are.
    assert torch.equal(scores[5][:3], scores[9][:3])
    assert not torch.allclose(scores[5][3], scores[9][3], atol=1e-5)
    assert not torch.allclose(scores[1][1], scores[9][1], atol=1e-5)


def test_sigma_gates_the_reversed_reading_by_itself_unless_told_to_mix_as_the_official_code() -> None:
    items, lengths = torch.randint(1, 11, (2, 9)), torch.full((2,), 9)
    torch.manual_seed(0)
    model = SIGMA(10, 9, SIGMAConfig()).eval()
    apart = model.score(items, lengths)
    model.blocks[0].mixed_up_gate = True
    assert not torch.allclose(model.score(items, lengths), apart, rtol=1e-4, atol=1e-7)
