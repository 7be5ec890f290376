"""The Mamba block against the official one: outputs, final states and every gradient; in pieces; its initialisation."""

import math

import pytest
import torch
import torch.nn.functional as F

from seqbench.models.mamba import LARGEST_STEP, SMALLEST_STEP, Mamba
from tests.conftest import Golden
from tests.models.official import Entry, load_official_state, mamba, official_gradients


@pytest.fixture
def golden() -> Golden:
    return Golden("mamba_block")


def official(golden: Golden) -> tuple[Mamba, dict[str, list[Entry]]]:
    config = golden.config
    sizes = {"d_state": config["d_state"], "d_conv": config["d_conv"], "expand": config["expand"]}
    block = Mamba(config["d_model"], **sizes).double()
    names = mamba(block)
    load_official_state(names, golden.below("w/"))
    return block, names


@pytest.mark.parametrize("length", [1, 3, 17])
def test_equals_the_official_block(golden: Golden, length: int, backend: str) -> None:
    block, names = official(golden)
    inputs = golden[f"L{length}/u"].requires_grad_()
    outputs, (_, hidden) = block.mix(inputs)
    (outputs * golden[f"L{length}/c"]).sum().backward()
    torch.testing.assert_close(outputs, golden[f"L{length}/out"], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(hidden, golden[f"L{length}/mid/last_state"], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(inputs.grad, golden[f"L{length}/gu"], rtol=1e-9, atol=1e-10)
    gradients = official_gradients(names)
    for name, expected in golden.below(f"L{length}/g/").items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("first", [1, 2, 3, 10, 16])
def test_goes_on_where_it_stopped(golden: Golden, first: int) -> None:
    block, _ = official(golden)
    inputs = golden["L17/u"]
    whole, _ = block.mix(inputs)
    state = block.initial_state(len(inputs))
    start, state = block.mix(inputs[:, :first], state)
    rest, _ = block.mix(inputs[:, first:], state)
    torch.testing.assert_close(torch.cat([start, rest], dim=1), whole)


def test_steps_start_log_uniform_between_their_bounds() -> None:
    block = Mamba(256, d_state=4, d_conv=4, expand=2)
    steps = F.softplus(block.step_projection.bias)
    assert steps.min() >= SMALLEST_STEP * (1 - 1e-4)
    assert steps.max() <= LARGEST_STEP * (1 + 1e-4)
    middle = math.sqrt(SMALLEST_STEP * LARGEST_STEP)
    assert 0.4 < (steps < middle).float().mean() < 0.6
