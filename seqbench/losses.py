"""Training losses: the softmax over the whole catalogue, and those that look at a few items instead.

A loss is made once per training from its settings and from how often each item occurs in training, which is all that it
learns of the data. In every step it first draws its negatives, then scores. To add one, write a subclass of `Loss` and
enter it in LOSSES.

The memory of a sampled loss is that of the scores, N · K, beside the gradient of the item table: nothing grows with
N · V or N · K · D.

Shapes: N positions, K negatives, D width, V items plus padding.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.device import kind
from seqbench.ops import linear_cross_entropy
from seqbench.registry import Registry

if TYPE_CHECKING:
    from seqbench.models.base import TrainingConfig

LISTING = "seqbench list models lrurec"


class Negatives(NamedTuple):
    """Items that were drawn for one step."""

    ids: Tensor  # (N, K) for each position, or (K,) for all of them
    log_counts: Tensor | None = None  # (K,) log of how often each is expected among K draws

    def of(self, positions: slice) -> "Negatives":
        """Return the negatives of some of the positions."""
        return self if self.ids.dim() == 1 else self._replace(ids=self.ids[positions])


class Loss(ABC):
    """A training loss.

    Args:
        training: the settings.
        counts: (V,) how often each item occurs in training, on the device of the training; 0 at padding.
    """

    sampled: ClassVar[bool]  # whether it scores drawn items only

    def __init__(self, training: "TrainingConfig", counts: Tensor) -> None:
        self.training = training
        self.counts = counts

    def draw(self, targets: Tensor, generator: torch.Generator) -> Negatives | None:
        """Draw the negatives of a step that trains the targets (N,); None if the loss has none."""
        return None

    @abstractmethod
    def __call__(
        self, states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Negatives | None
    ) -> Tensor:
        """Return the mean loss over positions, differentiable in states, items and bias.

        Args:
            states: (N, D).
            items: (V, D).
            bias: (V,), or None.
            targets: (N,) item ids.
            negatives: what `draw` gave.
        """


class CrossEntropy(Loss):
    """The softmax over the whole catalogue."""

    sampled = False

    def __call__(
        self, states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Negatives | None
    ) -> Tensor:
        return linear_cross_entropy(states, items, bias, targets)


class SampledSoftmax(Loss):
    """The softmax over the target and a sample that all positions of a batch share."""

    sampled = True

    def __init__(self, training: "TrainingConfig", counts: Tensor) -> None:
        super().__init__(training, counts)
        self.proposal = Proposal(PROPOSALS[training.proposal](counts))

    def draw(self, targets: Tensor, generator: torch.Generator) -> Negatives:
        return self.proposal.draw(self.training.negatives, generator)

    def __call__(
        self, states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Negatives | None
    ) -> Tensor:
        assert negatives is not None
        assert negatives.log_counts is not None
        return sampled_softmax(states, items, bias, targets, negatives.ids, negatives.log_counts)


class UncorrectedSoftmax(Loss):
    """The softmax over every position's target and negatives of its own, as they are drawn.

    Negatives are drawn uniformly from all items, with replacement. One that is the target stays, as a second copy.
    """

    sampled = True

    def draw(self, targets: Tensor, generator: torch.Generator) -> Negatives:
        V, count = len(self.counts), self.training.negatives
        shape = (count,) if self.training.shared_negatives else (len(targets), count)
        return Negatives(torch.randint(1, V, shape, generator=generator, device=targets.device))

    def __call__(
        self, states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Negatives | None
    ) -> Tensor:
        assert negatives is not None
        return uncorrected_softmax(states, items, bias, targets, negatives.ids)


class BinaryCrossEntropy(Loss):
    """Every position's target against negatives of its own, each by itself."""

    sampled = True
    beta = 1.0

    def draw(self, targets: Tensor, generator: torch.Generator) -> Negatives:
        V, count = len(self.counts), self.training.negatives
        if self.training.shared_negatives:
            return Negatives(torch.randint(1, V, (count,), generator=generator, device=targets.device))
        return Negatives(other_items(targets, V - 1, count, generator))

    def __call__(
        self, states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Negatives | None
    ) -> Tensor:
        assert negatives is not None
        return binary_cross_entropy(states, items, bias, targets, negatives.ids, self.beta)


class GeneralisedBinaryCrossEntropy(BinaryCrossEntropy):
    """Binary cross entropy whose positive part is scaled so that few negatives do not make the model overconfident."""

    def __init__(self, training: "TrainingConfig", counts: Tensor) -> None:
        super().__init__(training, counts)
        self.beta = gbce_beta(training.negatives, len(counts) - 1, training.calibration)


LOSSES: Registry[type[Loss]] = Registry(
    "Loss",
    {
        "cross-entropy": CrossEntropy,
        "sampled-softmax": SampledSoftmax,
        "uncorrected-softmax": UncorrectedSoftmax,
        "bce": BinaryCrossEntropy,
        "gbce": GeneralisedBinaryCrossEntropy,
    },
    LISTING,
)


def sampled_softmax(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Tensor, log_counts: Tensor
) -> Tensor:
    """Return the mean of -log softmax at the target, with the other items replaced by a weighted sample of them.

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
    scores = scores_of(states, items, bias, negatives) - log_counts
    scores = scores.masked_fill(negatives == targets.unsqueeze(1), -torch.inf)
    return (torch.cat([positive, scores], dim=1).logsumexp(dim=1) - positive.squeeze(1)).mean()


def uncorrected_softmax(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Tensor
) -> Tensor:
    """Return the mean of -log softmax at the target, over the target and negatives alone.

    The "sampled softmax" of RecTools and eSASRec (Tikhonovich et al., RecSys 2025): not an estimate of the softmax over
    the catalogue, for which the scores of negatives would need a correction (`sampled_softmax`).

    Args:
        states: (N, D).
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) item ids.
        negatives: (N, K) item ids, or (K,) the same for all positions.
    """
    positive = chosen_scores(states, items, bias, targets.unsqueeze(1))
    scores = scores_of(states, items, bias, negatives)
    return (torch.cat([positive, scores], dim=1).logsumexp(dim=1) - positive.squeeze(1)).mean()


def binary_cross_entropy(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, negatives: Tensor, beta: float = 1.0
) -> Tensor:
    """Return the mean over positions of (-β log σ(s[target]) - Σ_k log(1 - σ(s[negative_k]))) / (K + 1).

    With β = 1 and K = 1 this is half of the loss that SASRec was published with (Kang and McAuley, ICDM 2018); Adam
    does not see the factor. (Its negatives are no item of the user's; `other_items` leaves out the target alone.)
    With `gbce_beta` it is gBCE (Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation
    Trained with Negative Sampling", RecSys 2023).

    Args:
        states: (N, D).
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) item ids.
        negatives: (N, K) item ids, or (K,) the same for all positions; of those, a position leaves out its target.
        beta: power of the probability of the target.
    """
    positive = chosen_scores(states, items, bias, targets.unsqueeze(1))
    negative = scores_of(states, items, bias, negatives)
    if negatives.dim() == 1:
        negative = negative.masked_fill(negatives == targets.unsqueeze(1), -torch.inf)  # whose softplus is 0
    total = beta * F.softplus(-positive).sum() + F.softplus(negative).sum()
    return total / (len(targets) * (1 + negatives.shape[-1]))


def gbce_beta(negatives: int, items: int, calibration: float) -> float:
    """Return β = α (t (1 - 1/α) + 1/α) with the sampling rate α = negatives / (items - 1) and t the calibration."""
    rate = min(1.0, negatives / (items - 1))
    return 1 - calibration * (1 - rate)


def other_items(targets: Tensor, items: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw (N, count) ids uniformly, with replacement, from 1 … items without each position's target (N,)."""
    shape = (len(targets), count)
    drawn = torch.randint(1, items, shape, generator=generator, device=targets.device)
    return drawn + (drawn >= targets.unsqueeze(1))


def uniform(counts: Tensor) -> Tensor:
    """Return equal weights (V,) for all items, however often they occur, and 0 for padding."""
    return (torch.arange(len(counts), device=counts.device) > 0).double()


def log_uniform(counts: Tensor) -> Tensor:
    """Return weights (V,) of the items by how often they occur, (V,): log((r + 2) / (r + 1)) at rank r, from 0.

    Zipf's law for whoever knows ranks alone, as in TensorFlow's log_uniform_candidate_sampler; they sum to log(V).
    """
    ranks = counts[1:].argsort(descending=True, stable=True).argsort()
    return torch.cat([torch.zeros_like(counts[:1], dtype=torch.double), torch.log1p(1 / (ranks.double() + 1))])


# How often an item is drawn, in proportion: counts (V,) in training → weights (V,), 0 at padding.
PROPOSALS: Registry[Callable[[Tensor], Tensor]] = Registry(
    "Proposal", {"uniform": uniform, "log-uniform": log_uniform}, LISTING
)


class Proposal:
    """Draw item j with a probability in proportion to weights[j], with replacement.

    Args:
        weights: (V,) not negative; 0 at padding.
    """

    def __init__(self, weights: Tensor) -> None:
        self.cumulative = weights.double().cumsum(0)
        self.log_probabilities = (weights.double() / self.cumulative[-1]).log().float()

    def draw(self, count: int, generator: torch.Generator) -> Negatives:
        """Draw (count,) ids, and return with them the log of how often each is expected among so many draws."""
        places = torch.rand(count, dtype=torch.double, generator=generator, device=self.cumulative.device)
        drawn = torch.searchsorted(self.cumulative[:-1], places * self.cumulative[-1], right=True)
        return Negatives(drawn, self.log_probabilities[drawn] + math.log(count))


def scores_of(states: Tensor, items: Tensor, bias: Tensor | None, negatives: Tensor) -> Tensor:
    """Return the (N, K) scores of negatives (N, K), or (K,) the same for all of the states (N, D)."""
    if negatives.dim() == 2:
        return chosen_scores(states, items, bias, negatives)
    scores = states @ F.embedding(negatives, items).t()
    return scores if bias is None else scores + F.embedding(negatives, bias.unsqueeze(1)).squeeze(1)


def chosen_scores(states: Tensor, items: Tensor, bias: Tensor | None, chosen: Tensor) -> Tensor:
    """Return the (N, K) scores of the items chosen (N, K) for each of the states (N, D)."""
    scores = _ChosenScores.apply(states, items, chosen)  # type: ignore[no-untyped-call]
    result: Tensor = scores if bias is None else scores + F.embedding(chosen, bias.unsqueeze(1)).squeeze(2)
    return result


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
        rows = max(1, kind(states.device).block_bytes // row_bytes)
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
