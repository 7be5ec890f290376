"""Ranking metrics by hand, by brute force over tied orders, and by their names."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqbench.errors import UsageError
from seqbench.evaluation.metrics import METRICS, STANDARD, Metric, means, parse, per_user

BY_HAND = {
    "hr": lambda rank: 1.0,
    "recall": lambda rank: 1.0,
    "ndcg": lambda rank: 1 / math.log2(rank + 1),
    "mrr": lambda rank: 1 / rank,
    "rank": float,
}


def keys(cutoff: int) -> list[str]:
    """Every metric with this cut-off, and without one, where it can have it."""
    return [f"{name}@{cutoff}" for name, metric in METRICS.items() if metric.cutoff != "never"] + [
        name for name, metric in METRICS.items() if metric.cutoff != "always"
    ]


@given(better=st.integers(0, 30), ties=st.integers(0, 10), cutoff=st.integers(1, 45))
def test_metrics_are_means_over_all_orders_of_what_ties(better, ties, cutoff):
    for key in keys(cutoff):
        gain = BY_HAND[key.partition("@")[0]]
        ranks = range(better + 1, better + ties + 2)
        expected = sum(gain(rank) for rank in ranks if "@" not in key or rank <= cutoff) / len(ranks)
        found = per_user(key, np.array([better, 0]), np.array([ties, 0]))[0]
        assert found == pytest.approx(expected, rel=1e-12), key


def test_no_metric_depends_on_the_ranks_of_other_users():
    better, ties = np.array([0, 3, 90, 2]), np.array([0, 1, 5, 0])
    for key in keys(10):
        alone = [per_user(key, better[[user]], ties[[user]])[0] for user in range(4)]
        assert per_user(key, better, ties).tolist() == pytest.approx(alone, rel=1e-15)


def test_recall_is_hr_under_its_own_title():
    assert parse("Recall@50").title == "Recall@50"
    assert parse("hr@50").title == "HR@50"
    ranks = np.array([0, 49, 50]), np.array([0, 0, 0])
    assert per_user("recall@50", *ranks).tolist() == per_user("hr@50", *ranks).tolist() == [1, 1, 0]


def test_a_smaller_mean_rank_is_better_and_has_a_short_figure():
    assert (parse("rank").title, METRICS["rank"].direction) == ("Mean rank", "down")
    assert per_user("rank", np.array([0, 9]), np.array([0, 2])).tolist() == [1.0, 11.0]


def test_cutoffs_beyond_the_catalogue_need_no_more_memory():
    assert per_user("hr@999999999", np.array([3]), np.array([0])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hr", "needs a cut-off"),
        ("rank@10", "has no cut-off"),
        ("hr@0", "'0' is not a cut-off"),
        ("hr@ten", "'ten' is not"),
        ("hr@-1", "'-1' is not"),
        ("mrr@", "'' is not"),
        ("ndgc@10", r"ndgc@10.*Did you mean ndcg@10"),
    ],
)
def test_wrong_metrics_are_usage_errors(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_a_metric_is_added_with_one_entry():
    squared = Metric("Squared", lambda ranks: 1.0 / ranks**2)
    with METRICS.added("squared", squared):
        assert per_user("squared@2", np.array([0, 1, 2]), np.zeros(3, int)).tolist() == [1, 0.25, 0]
        assert parse("squared@2").title == "Squared@2"


def test_records_keep_nine_means():
    assert set(means(np.array([0]), np.array([0]))) == set(STANDARD)
    assert len(STANDARD) == 9


def test_metrics_import_nothing_heavy():
    code = "import sys; import seqbench.evaluation.metrics; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
