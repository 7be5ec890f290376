"""The fast dropout mask: right probability, right scale, reproducible."""

import pytest
import torch

from seqbench.ops.attention import causal_attention
from seqbench.ops.dropout import Dropout, dropout, dropout_mask


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.2, 0.5, 0.9, 0.99999])
def test_mask_keeps_the_right_share_and_scales_it(probability: float) -> None:
    mask = dropout_mask((1001, 999), probability, torch.empty(0))
    kept = (mask > 0).double().mean().item()
    deviation = (probability * (1 - probability) / mask.numel()) ** 0.5
    assert abs(kept - (1 - probability)) < 5 * deviation + 2**-16
    scale = mask.max().item()
    assert abs(scale * (1 - round(probability * 65536) / 65536) - 1) < 1e-6 or probability > 0.9999
    assert torch.unique(mask).numel() == 2


def test_neighbouring_elements_are_independent() -> None:
    kept = (dropout_mask((400_000,), 0.5, torch.empty(0)) > 0).double() - 0.5
    for distance in (1, 2, 3, 4, 5, 8):
        correlation = (kept[distance:] * kept[:-distance]).mean().item() * 4
        assert abs(correlation) < 5 / kept.numel() ** 0.5, distance


def test_follows_torch_seed() -> None:
    torch.manual_seed(3)
    first = dropout_mask((100,), 0.3, torch.empty(0))
    torch.manual_seed(3)
    assert torch.equal(first, dropout_mask((100,), 0.3, torch.empty(0)))


def test_is_the_identity_outside_training() -> None:
    x = torch.randn(10)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)


def test_attention_with_dropout_has_the_plain_one_as_its_mean() -> None:
    query, key, value = torch.randn(3, 1, 2, 6, 4, dtype=torch.float64).unbind(0)
    plain = causal_attention(query, key, value, dropout=0.5, training=False)
    many = [causal_attention(query, key, value, dropout=0.5, training=True) for _ in range(4000)]
    torch.testing.assert_close(torch.stack(many).mean(dim=0), plain, atol=0.15, rtol=0)
    nothing = causal_attention(query, key, value, dropout=1e-9, training=True)
    torch.testing.assert_close(nothing, plain)
