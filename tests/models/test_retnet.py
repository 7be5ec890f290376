"""RetNet against the recurrent equations of its paper, in NumPy and double precision, written independently of ours.

Nothing is stored: the expected numbers are computed here, with the weights of a model of ours.
"""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seqbench.models.retnet import RetNet, RetNetConfig

Array = NDArray[np.float64]
CONFIG = RetNetConfig(hidden_size=12, layers=2, dropout=0.0, heads=3, value_factor=2, inner_factor=3)


def norm(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0) -> Array:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5) * weight + bias


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def states_of(model: RetNet, items: list[int]) -> Array:
    """Equations 6 to 9 of arXiv 2307.08621 for one history, step by step; a pair of channels is a complex number."""
    w = {name: each.detach().double().numpy() for name, each in model.state_dict().items()}
    D, H = CONFIG.hidden_size, CONFIG.heads
    K, V = D // H, CONFIG.value_factor * D // H
    theta = 10000 ** -np.linspace(0, 1, K // 2)
    retained = np.zeros((CONFIG.layers, H, K // 2, V), complex)
    found = []
    for n, item in enumerate(items):
        x = w["embedding.weight"][item]
        for layer in range(CONFIG.layers):
            at = f"blocks.{layer}."
            y = norm(x, w[f"{at}retention_norm.weight"], w[f"{at}retention_norm.bias"])
            rows = w[f"{at}query_key_value.weight"]
            q, k, v = rows[:D] @ y, rows[D : 2 * D] @ y, rows[2 * D :] @ y
            heads = []
            for h in range(H):
                turn = np.exp(1j * n * theta)
                part = slice(h * K, (h + 1) * K)
                complex_q, complex_k = (each[part][::2] + 1j * each[part][1::2] for each in (q, k))
                gamma = 1 - 2.0 ** (-5 - h)
                added = np.outer(complex_k * turn, v[h * V : (h + 1) * V]) / math.sqrt(K)
                retained[layer, h] = gamma * retained[layer, h] + added
                heads.append(norm((np.conj(complex_q * turn) @ retained[layer, h]).real))
            gate = w[f"{at}gate.weight"] @ y
            x = x + w[f"{at}retention_out.weight"] @ (gate / (1 + np.exp(-gate)) * np.concatenate(heads))
            y = norm(x, w[f"{at}feed_forward_norm.weight"], w[f"{at}feed_forward_norm.bias"])
            x = x + w[f"{at}outer.weight"] @ gelu(w[f"{at}inner.weight"] @ y)
        found.append(norm(x, w["blocks.1.out_norm.weight"], w["blocks.1.out_norm.bias"]))
    return np.stack(found)


@pytest.fixture
def model() -> RetNet:
    torch.manual_seed(0)
    model = RetNet(20, 30, CONFIG).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # no norm is the identity
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_recurrent_equations_of_the_paper(model: RetNet, dtype: torch.dtype, backend: str) -> None:
    items = torch.randint(1, 21, (2, 25))
    expected = torch.from_numpy(np.stack([states_of(model, row.tolist()) for row in items]))
    found = model.to(dtype)(items, torch.tensor([25, 25]))
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4  # γ and θ are stored in float32
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_steps_stay_exact_far_beyond_the_longest_history(model: RetNet) -> None:
    """The state is seen from its newest position: no angle grows, and none is rounded."""
    items = torch.randint(1, 21, (1, 400))
    whole = model(items, torch.tensor([400]))[:, -1]
    state = model.prefill(items[:, :-1])
    torch.testing.assert_close(model.step(items[:, -1], state)[0], whole, rtol=1e-4, atol=1e-5)
