"""Statistics of repeated measurements, and of the difference between two models over the same users.

Two models are compared through the values of a metric for each user and seed. What varies is who the users are, and how
training went: the same users give paired differences, the seeds of the two models are independent of each other. The
claim is about the architectures, "A is better than B when trained with another seed", as soon as there is more than one
seed; with one seed each it is about these weights.

Why a t-test and not Wilcoxon's or a sign test, and why effect sizes beside it: https://arxiv.org/abs/2305.02461.

Shapes: S seeds, U users.
"""

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
CHUNK = 1 << 24  # resampled users at once
NEWTON_STEPS = 200  # far more than are taken


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of n values; None where there are too few of them."""

    mean: float | None
    std: float | None
    n: int


def summarise(values: Collection[float]) -> Summary:
    """Return the mean of the values, and their standard deviation with n - 1 in the denominator.

    One value says nothing about the spread, so its `std` is None and not 0.
    """
    n = len(values)
    if not n:
        return Summary(None, None, 0)
    mean = statistics.fmean(values)
    # Not statistics.stdev: its fractions take twenty times as long, for digits that nobody measures.
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
    return Summary(mean, std, n)


@dataclass(frozen=True)
class Comparison:
    """How much better one model is than another, over the same users."""

    difference: float  # of the means, first minus second
    relative: float | None  # difference over the second's mean; None where that is 0
    error: float  # standard error of the difference
    freedom: float  # degrees of freedom of its t distribution
    p: float  # two-sided, of no difference
    low: float  # interval of the difference
    high: float
    better: float  # share of users for whom the first has the larger value, averaged over seeds
    worse: float
    users: int
    seeds: tuple[int, int]


def compare(first: Floats, second: Floats, confidence: float = CONFIDENCE) -> Comparison:
    """Compare two models by a paired t-test over users, whose variance includes that between seeds.

    The variance of the difference of means is estimated as that of the users' seed-averaged differences over U, plus,
    for a model with several seeds, that of its seeds' means over S. What a seed's mean varies by because single users
    vary between seeds is in the first part already, and taken out of the second. Degrees of freedom are those of Welch
    and Satterthwaite. With one seed each, this is the usual paired t-test.

    Args:
        first: (S, U) values of one model.
        second: (S', U) values of the other, for the same users in the same order.
        confidence: of the interval.

    Raises:
        ValueError: the users differ, or there are fewer than two.
    """
    _check(first, second)
    users = first.shape[1]
    differences = first.mean(axis=0) - second.mean(axis=0)
    difference = float(differences.mean())
    parts = [(float(differences.var(ddof=1)) / users, users - 1)]
    parts += [(_between_seeds(values), len(values) - 1) for values in (first, second) if len(values) > 1]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part * part / free for part, free in parts) if variance > 0 else float(users - 1)
    error = math.sqrt(variance)
    reach = student_t_quantile(confidence, freedom) * error
    mean = float(second.mean())
    return Comparison(
        difference=difference,
        relative=difference / mean if mean else None,
        error=error,
        freedom=freedom,
        p=_p(difference, error, freedom),
        low=difference - reach,
        high=difference + reach,
        better=float((differences > 0).mean()),
        worse=float((differences < 0).mean()),
        users=users,
        seeds=(len(first), len(second)),
    )


def bootstrap_interval(
    first: Floats,
    second: Floats,
    *,
    seeds: bool = True,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    generator: np.random.Generator | None = None,
) -> tuple[float, float]:
    """Return an interval of the difference of means by resampling users, and seeds.

    Few seeds make a plain percentile interval too narrow: resampling S of them gives (S - 1) / S of their variance, and
    the normal tails of many. Both are made up for: the seeds' deviations are scaled, and the whole is widened as the t
    distribution of `compare` is wider than the normal one.

    Args:
        first: (S, U) values of one model.
        second: (S', U) values of the other, for the same users.
        seeds: resample the seeds, too: for a claim about the architectures. Users only: for one about these weights.
        generator: of the resamples; the same interval every time if None.
    """
    _check(first, second)
    generator = generator or np.random.default_rng(0)
    differences = first.mean(axis=0) - second.mean(axis=0)
    users = len(differences)
    middle = float(differences.mean())
    drawn = np.empty(resamples)
    step = max(1, CHUNK // users)
    for at in range(0, resamples, step):
        rows = min(step, resamples - at)
        drawn[at : at + rows] = differences[generator.integers(0, users, (rows, users))].mean(axis=1) - middle
    widening = 1.0
    if seeds and max(len(first), len(second)) > 1:
        for values, sign in ((first, 1), (second, -1)):
            S = len(values)
            if S > 1:
                means = values.mean(axis=1)
                chosen = means[generator.integers(0, S, (resamples, S))].mean(axis=1) - means.mean()
                drawn += sign * math.sqrt(S / (S - 1)) * chosen
        normal = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
        widening = student_t_quantile(confidence, compare(first, second).freedom) / normal
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return middle + widening * float(low), middle + widening * float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being several, after Holm: the chance of any false positive stays below a level."""
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def student_t_p(t: float, freedom: float) -> float:
    """Return the two-sided p-value of a t statistic."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t), t * t / (freedom + t * t))


def student_t_quantile(confidence: float, freedom: float) -> float:
    """Return the t that a share `confidence` of the distribution lies within, on both sides of 0."""
    t = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)  # too small: the tails of t are heavier
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    # p is convex and falls: Newton's steps lead up to the solution, and never beyond it but for rounding.
    for _ in range(NEWTON_STEPS):
        density = math.exp(scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (student_t_p(t, freedom) - (1 - confidence)) / (2 * density)
        t += step
        if step <= 1e-13 * t:
            break
    return t


def _check(first: Floats, second: Floats) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"values of the same users are needed, not of shapes {first.shape} and {second.shape}")
    if first.shape[1] < 2:
        raise ValueError("a comparison takes at least two users")


def _between_seeds(values: Floats) -> float:
    """Estimate the variance of the mean over seeds that is not due to single users varying between them."""
    S, U = values.shape
    means = values.mean(axis=1)
    # What is left when the effects of user and seed are taken out.
    left = values - values.mean(axis=0) - means[:, None] + means.mean()
    single = float((left * left).sum()) / ((S - 1) * (U - 1)) / U
    result: float = max(0.0, float(means.var(ddof=1)) - single) / len(values)
    return result


def _p(difference: float, error: float, freedom: float) -> float:
    if error == 0:
        return 0.0 if difference else 1.0
    return student_t_p(difference / error, freedom)


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """Return the regularised incomplete beta function: continued fraction of DLMF 8.17.22, evaluated after Lentz.

    Args:
        x: between 0 and 1.
        rest: 1 - x, which the subtraction would give fewer digits of.
    """
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, rest, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)) / a
    smallest = 1e-300
    c, d = 1.0, 1 / max(smallest, 1 - (a + b) * x / (a + 1))
    product = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or smallest)
            c = 1 + term / c or smallest
            product *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * product
