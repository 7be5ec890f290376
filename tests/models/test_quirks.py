"""What `official_quirks` changes, and that it is off otherwise."""

import torch
import torch.nn.functional as F

from seqbench.models.mamba4rec import Mamba4Rec, Mamba4RecConfig
from seqbench.models.recblr import RecBLR, RecBLRConfig


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
        assert 0.018 < model.blocks[0].feed_forward_in.weight.std() < 0.022
        assert (model.blocks[0].feed_forward_in.bias == 0).all()
