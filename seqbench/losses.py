"""Training losses that look at a few items instead of the whole catalogue (which is ops/linear_cross_entropy.py).

Memory is that of the scores, N · K, beside the gradient of the item table: nothing grows with N · V or N · K · D.

Shapes: N positions, K negatives, D width, V items plus padding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# The rows of the item table that are gathered at once. On a CPU they are to stay in the caches; a GPU wants larger
# blocks to fill its processors.
BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}


def sampled_softmax(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Tensor, log_counts: Tensor
) -> Tensor:
    """Mean over positions of -log softmax at the target, the other items replaced by a weighted sample of them.

    With s the scores, -s[target] + log(exp s[target] + Σ_k exp(s[negative_k]) / count_k), where count_k is how often
    the proposal is expected to draw that item: the sum over the catalogue is estimated without bias (Bengio and
    Senécal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model", 2008).
    A negative that is a position's target is left out there. The target itself is in the sum by right and not by
    chance, so its score is not corrected.

    Args:
        states: (N, D).
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) item ids.
        negatives: (K,) item ids, the same for all positions, so that their scores are one matrix product.
        log_counts: (K,) log of how often each is expected among K draws, log(K · probability).
    """
    positive = chosen_scores(states, items, bias, targets.unsqueeze(1))
    scores = states @ F.embedding(negatives, items).t() - log_counts
    if bias is not None:
        scores = scores + F.embedding(negatives, bias.unsqueeze(1)).squeeze(1)
    scores = scores.masked_fill(negatives == targets.unsqueeze(1), -torch.inf)
    return (torch.cat([positive, scores], dim=1).logsumexp(dim=1) - positive.squeeze(1)).mean()


def binary_cross_entropy(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Tensor, beta: float = 1.0
) -> Tensor:
    """Mean over positions of (-β log σ(s[target]) - Σ_k log(1 - σ(s[negative_k]))) / (K + 1).

    With β = 1 and K = 1 this is half of the loss that SASRec was published with (Kang and McAuley, ICDM 2018); Adam
    does not see the factor. (Its negatives are no item of the user's; `other_items` leaves out the target alone.)
    With `gbce_beta` it is gBCE (Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation
    Trained with Negative Sampling", RecSys 2023).

    Args:
        states: (N, D).
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) item ids.
        negatives: (N, K) item ids.
        beta: power of the probability of the target.
    """
    positive = chosen_scores(states, items, bias, targets.unsqueeze(1))
    negative = chosen_scores(states, items, bias, negatives)
    total = beta * F.softplus(-positive).sum() + F.softplus(negative).sum()
    return total / (len(targets) * (1 + negatives.shape[1]))


def gbce_beta(negatives: int, items: int, calibration: float) -> float:
    """β = α (t (1 - 1/α) + 1/α) with the sampling rate α = negatives / (items - 1) and t the calibration."""
    rate = min(1.0, negatives / (items - 1))
    return 1 - calibration * (1 - rate)


def other_items(targets: Tensor, items: int, count: int, generator: torch.Generator) -> Tensor:
    """(N, count) ids drawn uniformly, with replacement, from 1 … items without each position's target (N,)."""
    shape = (len(targets), count)
    drawn = torch.randint(1, items, shape, generator=generator, device=targets.device)
    return drawn + (drawn >= targets.unsqueeze(1))


def log_uniform(counts: Tensor) -> Tensor:
    """Weights (V,) of the items after padding by how often they occur, (V,): log((r + 2) / (r + 1)) at rank r, from 0.

    Zipf's law for whoever knows ranks alone, as in TensorFlow's log_uniform_candidate_sampler; they sum to log(V).
    """
    ranks = counts[1:].argsort(descending=True, stable=True).argsort()
    return torch.cat([torch.zeros_like(counts[:1], dtype=torch.double), torch.log1p(1 / (ranks.double() + 1))])


class Proposal:
    """Draws item j with a probability in proportion to weights[j], with replacement.

    Args:
        weights: (V,) not negative; 0 at padding.
    """

    def __init__(self, weights: Tensor) -> None:
        self.cumulative = weights.double().cumsum(0)
        self.log_probabilities = (weights.double() / self.cumulative[-1]).log().float()

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count,) ids, and the log of how often each is expected among so many draws."""
        places = torch.rand(count, dtype=torch.double, generator=generator, device=self.cumulative.device)
        drawn = torch.searchsorted(self.cumulative[:-1], places * self.cumulative[-1], right=True)
        return drawn, self.log_probabilities[drawn] + math.log(count)


def chosen_scores(states: Tensor, items: Tensor, bias: Tensor | None, chosen: Tensor) -> Tensor:
    """(N, K) scores of the items chosen (N, K) for each of the states (N, D)."""
    scores = _ChosenScores.apply(states, items, chosen)
    return scores if bias is None else scores + F.embedding(chosen, bias.unsqueeze(1)).squeeze(2)


class _ChosenScores(torch.autograd.Function):
    """states[n] · items[chosen[n, k]], without keeping the (N, K, D) rows for the gradient.

    Both gradients are weighted sums of rows: of items for each state, of states for each item. That is what
    `embedding_bag` computes, in a fixed order and with no rows gathered first: for the items, 3.6 times as fast as
    `index_add_` over blocks (5,000 positions, 256 negatives, 12,000 items, two CPU threads).
    """

    @staticmethod
    def forward(ctx, states, items, chosen):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(states, items, chosen)
        row_bytes = chosen.shape[1] * states.shape[1] * states.element_size()
        rows = max(1, BLOCK_BYTES.get(states.device.type, 2 << 20) // row_bytes)
        blocks = zip(states.split(rows), chosen.split(rows), strict=True)
        return torch.cat([torch.bmm(F.embedding(c, items), s.unsqueeze(2)).squeeze(2) for s, c in blocks])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        states, items, chosen = ctx.saved_tensors
        grad = grad.contiguous()
        grad_states = grad_items = None
        if ctx.needs_input_grad[0]:
            grad_states = F.embedding_bag(chosen, items, per_sample_weights=grad, mode="sum")
        if ctx.needs_input_grad[1]:
            ids, order = chosen.flatten().sort(stable=True)
            firsts = torch.searchsorted(ids, torch.arange(len(items), device=ids.device))
            weights = grad.flatten()[order]
            positions = order // chosen.shape[1]
            grad_items = F.embedding_bag(positions, states, firsts, per_sample_weights=weights, mode="sum")
        return grad_states, grad_items, None
