"""Dropout without slow random numbers: right probability, scale and gradient, reproducible, whatever runs it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from seqbench.ops.attention import causal_attention
from seqbench.ops.backends import BACKENDS, use
from seqbench.ops.cpu import binding
from seqbench.ops.cpu import dropout as cpu_dropout
from seqbench.ops.dropout import Dropout, dropout
from tests.ops.opskit import REGISTRATION


@pytest.fixture(params=["cpu", "torch"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if reason := BACKENDS[request.param].unavailable("dropout", "cpu"):
        pytest.skip(reason)
    with use(request.param):
        yield request.param


def mask(shape: int | tuple[int, ...], probability: float) -> Tensor:
    return dropout(torch.ones(shape), probability, training=True)


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.2, 0.5, 0.9, 0.99999])
def test_keeps_the_right_share_and_scales_it(probability: float) -> None:
    found = mask((1001, 999), probability)
    kept = (found > 0).double().mean().item()
    deviation = (probability * (1 - probability) / found.numel()) ** 0.5
    assert abs(kept - (1 - probability)) < 5 * deviation + 2**-16
    scale = found.max().item()
    assert abs(scale * (1 - probability) - 1) < 2**-16 / (1 - probability)  # the probability is rounded
    assert torch.unique(found).numel() == 2


@pytest.mark.parametrize("probability", [0.5, 0.1])
def test_neighbouring_elements_are_independent(probability: float) -> None:
    dropped = (mask(400_000, probability) == 0).double() - probability
    for distance in (1, 2, 3, 4, 5, 8, 16, 64, 1 << 15):
        correlation = (dropped[distance:] * dropped[:-distance]).mean().item() / (probability * (1 - probability))
        assert abs(correlation) < 5 / dropped.numel() ** 0.5, distance


def test_masks_of_different_calls_are_independent() -> None:
    first, second = ((mask(400_000, 0.5) > 0).double() - 0.5 for _ in range(2))
    for shift in (0, 1, 17, 32768):
        assert abs((first * second.roll(shift)).mean().item() * 4) < 5 / first.numel() ** 0.5, shift


def test_bits_are_evenly_spread_over_positions() -> None:
    kept = sum((mask((64, 1024), 0.5) > 0).double().mean(dim=0) for _ in range(50)) / 50
    assert (kept - 0.5).abs().max() < 6 * 0.5 / (64 * 50) ** 0.5


def test_the_gradient_goes_through_the_same_elements() -> None:
    x = torch.randn(3, 50_001, dtype=torch.float64, requires_grad=True)
    out = dropout(x, 0.3, training=True)
    cotangent = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, cotangent)
    torch.testing.assert_close(gradient, cotangent * (out / x))
    assert 0.6 < (gradient != 0).double().mean() < 0.8


def test_follows_torch_seed() -> None:
    torch.manual_seed(3)
    first = mask(100, 0.3)
    torch.manual_seed(3)
    assert torch.equal(first, mask(100, 0.3))


def test_is_the_identity_outside_training() -> None:
    x = torch.randn(10)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_takes_any_shape_stride_and_precision(dtype: torch.dtype) -> None:
    x = torch.randn(7, 5, 3).to(dtype).transpose(0, 2)
    out = dropout(x, 0.5, training=True)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert ((out == 0) | (out == 2 * x)).all()
    assert dropout(x[:0], 0.5, training=True).shape == (0, 5, 7)


def test_attention_with_dropout_has_the_plain_one_as_its_mean() -> None:
    query, key, value = torch.randn(3, 1, 2, 6, 4, dtype=torch.float64).unbind(0)
    plain = causal_attention(query, key, value, dropout=0.5, training=False)
    many = [causal_attention(query, key, value, dropout=0.5, training=True) for _ in range(1500)]
    torch.testing.assert_close(torch.stack(many).mean(dim=0), plain, atol=0.25, rtol=0)
    nothing = causal_attention(query, key, value, dropout=1e-9, training=True)
    torch.testing.assert_close(nothing, plain)


def test_attention_of_the_last_items_sees_no_padding_with_dropout_or_without() -> None:
    query, key, value = torch.randn(3, 3, 2, 6, 4, dtype=torch.float64).unbind(0)
    lengths = torch.tensor([1, 4, 6])
    whole = causal_attention(query, key, value, dropout=0.0, training=False)
    expected = torch.stack([whole[row, :, length - 1 : length] for row, length in enumerate(lengths)])
    asking = torch.stack([query[row, :, length - 1 : length] for row, length in enumerate(lengths)])

    def attend(dropout: float, training: bool) -> torch.Tensor:
        return causal_attention(asking, key, value, dropout=dropout, training=training, lengths=lengths)

    torch.testing.assert_close(attend(0.5, False), expected)
    torch.testing.assert_close(attend(1e-9, True), expected)
    mean = torch.stack([attend(0.5, True) for _ in range(1500)]).mean(dim=0)
    torch.testing.assert_close(mean, expected, atol=0.25, rtol=0)
    assert not torch.allclose(attend(0.5, True), expected)


def test_nothing_is_left_with_probability_one() -> None:
    seed, element = 1994398, 3026  # whose hash is the largest 32-bit number, which no threshold of 32 bits is above
    assert cpu_dropout.forward(torch.ones(4000), seed, 1 - 2**-32)[element] == 2**32
    assert not cpu_dropout.forward(torch.ones(4000), seed, 1.0).any()


def test_operator_is_well_registered(backend: str) -> None:
    arguments = (torch.randn(4, 5, requires_grad=True), torch.tensor(7), 0.4, backend)
    checks = REGISTRATION if backend == "cpu" else REGISTRATION[:3]  # the last takes seconds
    torch.library.opcheck(torch.ops.seqbench.dropout.default, arguments, test_utils=checks)


def test_any_number_of_threads_zeroes_the_same_elements(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "cpu":
        runs = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            runs.append(cpu_dropout.forward(torch.ones(300_000), 5, 0.5))
        assert torch.equal(runs[0], runs[1])
        assert torch.equal(runs[0], runs[2])


def test_more_threads_than_a_kernel_starts_are_no_harm(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "cpu":
        x = torch.ones(600 << 15)
        one = cpu_dropout.forward(x, 5, 0.5)
        monkeypatch.setattr(binding, "_torch_threads", lambda: None)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 300)
        assert torch.equal(cpu_dropout.forward(x, 5, 0.5), one)
