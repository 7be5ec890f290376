"""Statistics against scipy, and by simulation: do intervals cover, do tests stay within their level?"""

import math

import numpy as np
import pytest
import scipy.stats as scipy_stats
from hypothesis import given
from hypothesis import strategies as st

from seqbench.evaluation.statistics import (
    bootstrap_interval,
    compare,
    holm,
    student_t_p,
    student_t_quantile,
    summarise,
)


def test_summaries_match_hand_worked_values():
    summary = summarise([1.0, 2.0, 4.0])
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.std == pytest.approx((7 / 3) ** 0.5)  # (16 + 1 + 25) / 9 / 2
    assert summarise([5.0]).std is None
    assert summarise([]).mean is None


@given(st.floats(-60, 60), st.floats(0.5, 1e6))
def test_p_values_are_those_of_scipy(t, freedom):
    assert student_t_p(t, freedom) == pytest.approx(2 * scipy_stats.t.sf(abs(t), freedom), rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("freedom", [1, 2, 4.7, 30, 1e5])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_quantiles_are_those_of_scipy(freedom, confidence):
    expected = scipy_stats.t.ppf(0.5 + confidence / 2, freedom)
    assert student_t_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-9)


def test_with_one_seed_it_is_the_paired_t_test():
    generator = np.random.default_rng(0)
    first, second = generator.random((1, 200)), generator.random((1, 200))
    expected = scipy_stats.ttest_rel(first[0], second[0])
    interval = expected.confidence_interval(0.95)
    found = compare(first, second)
    assert (found.p, found.freedom) == pytest.approx((expected.pvalue, 199))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_seeds_that_agree_change_nothing_and_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(0)
    first, second = generator.random((1, 200)) + 0.1, generator.random((1, 200))
    alone = compare(first, second)
    again = compare(np.repeat(first, 3, axis=0), np.repeat(second, 3, axis=0))
    assert (again.p, again.low, again.high) == pytest.approx((alone.p, alone.low, alone.high))
    shifted = compare(first + np.array([[-0.1], [0.0], [0.1]]), second)
    assert shifted.difference == pytest.approx(alone.difference)
    assert shifted.error**2 == pytest.approx(alone.error**2 + 0.1**2 / 3)  # the seeds' means have variance 0.1²
    assert shifted.p > alone.p


def test_effect_sizes_by_hand():
    found = compare(np.array([[1.0, 0.0, 0.5, 0.0], [1.0, 0.0, 0.5, 0.0]]), np.array([[0.5, 0.25, 0.25, 0.0]]))
    assert (found.difference, found.relative) == (0.125, 0.5)
    assert (found.better, found.worse) == (0.5, 0.25)
    assert (found.users, found.seeds) == (4, (2, 1))


def test_no_difference_at_all_has_p_of_one():
    assert compare(np.ones((2, 5)), np.ones((1, 5))).p == 1
    assert compare(np.ones((1, 5)), np.zeros((1, 5))).p == 0


@pytest.mark.parametrize("shapes", [((1, 5), (1, 6)), ((1, 1), (1, 1)), ((5,), (5,))])
def test_comparisons_need_the_same_users(shapes):
    first, second = (np.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="users"):
        compare(first, second)


def test_holm_by_hand_and_by_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_lowers(p):
    adjusted = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    assert [p[index] for index in np.argsort(adjusted, kind="stable")] == pytest.approx(
        sorted(p, key=lambda value: adjusted[p.index(value)])
    )


def test_resampling_users_agrees_with_scipys_bootstrap():
    generator = np.random.default_rng(1)
    first, second = generator.exponential(size=(1, 300)), generator.random((1, 300))
    theirs = scipy_stats.bootstrap(
        (first[0] - second[0],), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert bootstrap_interval(first, second, resamples=4000) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_two_seeds_spread_as_a_sample_of_two_does():
    """Users do not differ, so all of the interval is that of the seeds: of resampled means -1, 0 and 1, √2 times."""
    first, second = np.repeat([[-1.0], [1.0]], 50, axis=1), np.zeros((1, 50))
    widening = scipy_stats.t.ppf(0.975, 1) / scipy_stats.norm.ppf(0.975)
    reach = math.sqrt(2) * widening
    assert bootstrap_interval(first, second) == pytest.approx((-reach, reach), rel=1e-6)


def simulated(generator, users, seeds, between_seeds, difference=0.0):
    """Hits of two models on the same users: some are easier, seeds shift the odds, and each hit is drawn."""
    ease = generator.normal(-1.5, 1.0, users)
    taste = generator.normal(0, 0.5, users)  # what one model has over the other for this user
    return [
        (
            generator.random((seeds, users))
            < 1 / (1 + np.exp(-(ease + sign * taste + shift + generator.normal(0, between_seeds, (seeds, 1)))))
        ).astype(float)
        for sign, shift in ((1, difference), (-1, 0.0))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "between_seeds"), [(1, 0.0), (3, 0.0), (3, 0.05), (3, 0.2), (5, 0.2)])
def test_intervals_cover_and_tests_keep_their_level(seeds, between_seeds):
    """The two models are equally good over all users and seeds, so that every significant difference is a false one."""
    generator = np.random.default_rng(seeds)
    trials, covered, rejected = 500, 0, 0
    for _ in range(trials):
        first, second = simulated(generator, 500, seeds, between_seeds)
        low, high = bootstrap_interval(first, second, resamples=500, generator=generator)
        covered += low <= 0 <= high
        rejected += compare(first, second).p < 0.05
    noise = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials > 0.95 - noise - 0.01
    assert rejected / trials < 0.05 + noise
    print(f"seeds {seeds}, spread {between_seeds}: coverage {covered / trials:.3f}, rejected {rejected / trials:.3f}")


@pytest.mark.slow
def test_holm_keeps_the_chance_of_any_false_mark_in_a_table():
    generator = np.random.default_rng(0)
    trials, wrong = 300, 0
    for _ in range(trials):
        baseline, *others = (simulated(generator, 400, 3, 0.1)[0] for _ in range(7))
        wrong += min(holm([compare(other, baseline).p for other in others])) < 0.05
    assert wrong / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    print(f"any false mark: {wrong / trials:.3f}")
