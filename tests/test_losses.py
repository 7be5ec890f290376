"""Sampled losses: against their formulas in plain loops, and against the whole catalogue."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqbench.device import DEVICES
from seqbench.losses import (
    Proposal,
    binary_cross_entropy,
    chosen_scores,
    gbce_beta,
    log_uniform,
    other_items,
    sampled_softmax,
)
from seqbench.ops import linear_cross_entropy

N, V, D, K = 7, 12, 5, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[False, True], ids=["no bias", "bias"])
def inputs(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """States, items, bias and targets in float64, with gradients."""
    states = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    items = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(V, dtype=torch.float64, requires_grad=True) if request.param else None
    return states, items, bias, torch.randint(1, V, (N,))


Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor]


def logits(states: Tensor, items: Tensor, bias: Tensor | None) -> Tensor:
    return states @ items.t() + (0 if bias is None else bias)


def gradients(loss: Tensor, inputs: Inputs) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [tensor for tensor in inputs[:3] if tensor is not None]))


def equal_with_gradients(found: Tensor, expected: Tensor, inputs: Inputs) -> None:
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)


# Sampled softmax


def test_sampled_softmax_by_its_formula(inputs: Inputs) -> None:
    *_, targets = inputs
    negatives, log_counts = Proposal(torch.tensor([0, *range(1, V)])).draw(K, generator())
    targets[0] = negatives[0]  # which that position leaves out
    scores = logits(*inputs[:3])
    total = torch.zeros((), dtype=torch.float64)
    for n in range(N):
        terms = [scores[n, targets[n]]]
        terms += [scores[n, j] - c for j, c in zip(negatives, log_counts, strict=True) if j != targets[n]]
        total = total + torch.logsumexp(torch.stack(terms), 0) - scores[n, targets[n]]
    equal_with_gradients(sampled_softmax(*inputs, negatives, log_counts), total / N, inputs)


def test_with_every_item_drawn_once_it_is_the_full_cross_entropy(inputs: Inputs) -> None:
    everything = sampled_softmax(*inputs, torch.randperm(V), torch.zeros(V))
    equal_with_gradients(everything, linear_cross_entropy(*inputs), inputs)


@pytest.mark.parametrize("counts", [[0] + [1] * (V - 1), [0, *range(1, V)]], ids=["uniform", "popularity"])
def test_the_estimated_sum_over_the_catalogue_is_unbiased(counts: list[int], inputs: Inputs) -> None:
    states, items, bias, targets = (tensor if tensor is None else tensor.detach()[:1] for tensor in inputs)
    states, items, bias = states, inputs[1].detach(), None if inputs[2] is None else inputs[2].detach()
    proposal = Proposal(torch.tensor(counts))
    draws, source = 1000, generator()
    scores = logits(states, items, bias)[0]
    totals = []
    for _ in range(draws):
        loss = sampled_softmax(states, items, bias, targets, *proposal.draw(16, source))
        totals.append(float(loss.exp() * scores[targets].exp()))
    estimates = torch.tensor(totals)
    expected = float(scores[1:].exp().sum())
    assert abs(estimates.mean() - expected) < 4 * estimates.std() / math.sqrt(draws)
    assert estimates.std() < expected  # so that the test says something


def test_log_uniform_weights_follow_the_rank_and_sum_to_the_logarithm_of_the_catalogue() -> None:
    weights = log_uniform(torch.tensor([0, 5, 9, 0, 5]))
    expected = [0.0, math.log(3 / 2), math.log(2 / 1), math.log(5 / 4), math.log(4 / 3)]  # equal counts in order of ids
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))
    assert float(weights.sum()) == pytest.approx(math.log(5))


def test_a_proposal_draws_in_proportion_to_the_counts_and_never_padding() -> None:
    counts = torch.tensor([0, 3, 0, 1, 6])
    drawn, log_counts = Proposal(counts).draw(10000, generator())
    shares = torch.bincount(drawn, minlength=5) / 10000
    torch.testing.assert_close(shares, counts / 10, rtol=0, atol=0.02)
    torch.testing.assert_close(log_counts, (10000 * counts[drawn] / 10).log())


# Binary cross entropy


def plain_binary(inputs: Inputs, negatives: Tensor, beta: float) -> Tensor:
    scores = logits(*inputs[:3]).sigmoid()
    terms = [beta * scores[n, target].log() for n, target in enumerate(inputs[3])]
    terms += [(1 - scores[n, j]).log() for n in range(N) for j in negatives[n]]
    return -torch.stack(terms).sum() / (N * (negatives.shape[1] + 1))


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("count", [1, K, 50])
def test_binary_cross_entropy_by_its_formula(
    count: int, beta: float, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DEVICES["cpu"], "block_bytes", 3 * count * D * 8)  # three positions at a time
    negatives = other_items(inputs[3], V - 1, count, generator())
    found = binary_cross_entropy(*inputs, negatives, beta)
    equal_with_gradients(found, plain_binary(inputs, negatives, beta), inputs)


def test_scores_far_from_zero_stay_finite() -> None:
    states, items = torch.full((2, 1), 200.0, requires_grad=True), torch.tensor([[0.0], [-10.0], [10.0]])
    loss = binary_cross_entropy(states, items, None, torch.tensor([1, 2]), torch.tensor([[2], [1]]), 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx((0.5 * 2000 + 2000) / 4)
    assert torch.isfinite(states.grad).all()  # type: ignore[arg-type]


def test_beta_as_published() -> None:
    alpha = 256 / 3415
    for t in (0.0, 0.5, 0.75, 1.0):
        assert gbce_beta(256, 3416, t) == pytest.approx(alpha * (t * (1 - 1 / alpha) + 1 / alpha))
    assert gbce_beta(256, 3416, 0.0) == 1.0
    assert gbce_beta(500, 100, 1.0) == 1.0  # more draws than items: nothing to correct


def test_gbce_with_calibration_1_learns_the_probabilities() -> None:
    # The expected loss over the draws of one negative, minimised: the sigmoid of each score is its probability.
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    beta, items, count = gbce_beta(1, 4, 1.0), 4, 1
    scores = torch.zeros(items, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        others = count * (1 - probabilities) / (items - 1)  # how often each is a negative
        loss = -(probabilities * beta * torch.nn.functional.logsigmoid(scores)).sum()
        loss = loss - (others * torch.nn.functional.logsigmoid(-scores)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    torch.testing.assert_close(scores.sigmoid(), probabilities, atol=1e-4, rtol=0)


def test_other_items_are_uniform_over_all_but_the_target() -> None:
    targets = torch.tensor([1, 3, 5])
    drawn = other_items(targets, 5, 20000, generator())
    for target, row in zip(targets.tolist(), drawn, strict=True):
        shares = torch.bincount(row, minlength=6) / 20000
        expected = torch.tensor([0.0] + [0.0 if item == target else 0.25 for item in range(1, 6)])
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "draw",
    [
        lambda source: other_items(torch.arange(1, 9), 1000, 5, source),
        lambda source: Proposal(torch.ones(1000, dtype=torch.long)).draw(40, source)[0],
    ],
)
def test_draws_depend_on_the_generator_alone(draw: Callable[[torch.Generator], Tensor]) -> None:
    torch.manual_seed(1)
    first = draw(generator(3))
    torch.manual_seed(2)
    assert torch.equal(draw(generator(3)), first)
    assert not torch.equal(draw(generator(4)), first)


# Scores of chosen items


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_gradients_of_chosen_scores(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DEVICES["cpu"], "block_bytes", block)
    states = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    items = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    chosen = torch.randint(0, V // 2, (N, K))  # some items often, others never
    torch.testing.assert_close(chosen_scores(states, items, None, chosen), (states @ items.t()).gather(1, chosen))
    assert torch.autograd.gradcheck(lambda s, i: chosen_scores(s, i, None, chosen), (states, items))


def test_memory_grows_with_positions_and_negatives_and_not_with_their_rows() -> None:
    """Kept for the gradient: scores and ids, never the (N, K, D) rows that were gathered."""
    kept = []
    states, items = torch.randn(64, 32, requires_grad=True), torch.randn(100, 32, requires_grad=True)
    targets = torch.randint(1, 100, (64,))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        binary_cross_entropy(states, items, None, targets, other_items(targets, 99, 50, generator())).backward()
    assert max(kept) <= 64 * 50
