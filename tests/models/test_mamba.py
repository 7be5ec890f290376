"""The Mamba block against the official one: outputs, final states and every gradient; in pieces; its initialisation."""

import math

import pytest
import torch
import torch.nn.functional as F

from seqbench.models.mamba import LARGEST_STEP, SMALLEST_STEP, Mamba
from seqbench.ops.backends import BACKENDS, VARIABLE
from tests.conftest import Golden

NAMES = {  # official names of our parameters; the convolution's weight is (H, 1, K) there and (K, H) here
    "in_proj.weight": "in_projection.weight",
    "conv1d.weight": "convolution_weight",
    "conv1d.bias": "convolution_bias",
    "x_proj.weight": "parameters_projection.weight",
    "dt_proj.weight": "step_projection.weight",
    "dt_proj.bias": "step_projection.bias",
    "A_log": "decay_log",
    "D": "skip",
    "out_proj.weight": "out_projection.weight",
}


def official_layout(name: str, value: torch.Tensor) -> torch.Tensor:
    return value.t().unsqueeze(1) if name == "conv1d.weight" else value


@pytest.fixture
def golden() -> Golden:
    return Golden("mamba_block")


def official(golden: Golden) -> Mamba:
    config = golden.config
    block = Mamba(
        config["d_model"], states=config["d_state"], convolution=config["d_conv"], expand=config["expand"]
    ).double()
    weights = golden.below("w/")
    assert set(weights) == set(NAMES)
    assert set(NAMES.values()) == {name for name, _ in block.named_parameters()}
    with torch.no_grad():
        for name, value in weights.items():
            parameter = block.get_parameter(NAMES[name])
            parameter.copy_(value.squeeze(1).t() if name == "conv1d.weight" else value)
    return block


@pytest.mark.parametrize("length", [1, 3, 17])
def test_equals_the_official_block(golden: Golden, length: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := BACKENDS[backend].unavailable("selective_scan", "cpu"):
        pytest.skip(reason)
    monkeypatch.setenv(VARIABLE, backend)
    block = official(golden)
    inputs = golden[f"L{length}/u"].requires_grad_()
    outputs, (_, hidden) = block(inputs)
    (outputs * golden[f"L{length}/c"]).sum().backward()
    torch.testing.assert_close(outputs, golden[f"L{length}/out"], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(hidden, golden[f"L{length}/mid/last_state"], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(inputs.grad, golden[f"L{length}/gu"], rtol=1e-9, atol=1e-10)
    for name, gradient in golden.below(f"L{length}/g/").items():
        ours = block.get_parameter(NAMES[name]).grad
        assert ours is not None, name
        torch.testing.assert_close(official_layout(name, ours), gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("first", [1, 2, 3, 10, 16])
def test_goes_on_where_it_stopped(golden: Golden, first: int) -> None:
    block = official(golden)
    inputs = golden["L17/u"]
    whole, _ = block(inputs)
    state = block.initial_state(len(inputs))
    start, state = block(inputs[:, :first], state)
    rest, _ = block(inputs[:, first:], state)
    torch.testing.assert_close(torch.cat([start, rest], dim=1), whole)


def test_steps_start_log_uniform_between_their_bounds() -> None:
    block = Mamba(256, states=4, convolution=4, expand=2)
    steps = F.softplus(block.step_projection.bias)
    assert steps.min() >= SMALLEST_STEP * (1 - 1e-4)
    assert steps.max() <= LARGEST_STEP * (1 + 1e-4)
    middle = math.sqrt(SMALLEST_STEP * LARGEST_STEP)
    assert 0.4 < (steps < middle).float().mean() < 0.6
