"""`seqbench compare`: two models wherever both were run."""

import numpy as np
import pytest
from reportkit import printed

from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.metrics import parse
from seqbench.evaluation.ranks import Ranks
from seqbench.evaluation.statistics import bootstrap_interval, compare
from seqbench.reporting.comparison import contests
from seqbench.reporting.runs import StoredRun
from seqbench.show.contests import contests_table

USERS = 300
MEASURES = [parse("hr@10"), parse("rank")]


@pytest.fixture
def run(make_record, tmp_path):
    """A function that makes a run whose targets are at about the rank `typical`."""

    def make(model, typical, seed=0, dataset="ml-100k", users=USERS, **options):
        generator = np.random.default_rng([seed, *model.encode()])
        better = (typical * generator.exponential(1, users)).astype(int)
        folder = tmp_path / f"{dataset}-{model}-{seed}-{len(options)}"
        Ranks(np.arange(1, users + 1), better, np.zeros(users, int)).write(folder / "ranks.parquet")
        record = make_record(model, seed, dataset, **options)
        record.dataset["evaluated_users"] = users
        return StoredRun(record, folder)

    return make


def test_a_comparison_is_that_of_the_statistics(run):
    first, second = [run("lrurec", 5, seed) for seed in (0, 1)], [run("sasrec", 9)]
    found = contests([*first, *second, run("gru4rec", 3)], "lrurec", "SASRec", MEASURES)
    assert [each.measure.key for each in found] == ["hr@10", "rank"]
    values = [np.stack([each.per_user(MEASURES[0]) for each in runs]) for runs in (first, second)]
    assert found[0].comparison == compare(*values)
    assert found[0].interval == bootstrap_interval(*values)
    assert found[0].p >= found[0].comparison.p


def test_data_sets_that_have_only_one_of_them_are_left_out(run):
    runs = [run("lrurec", 5), run("sasrec", 9), run("lrurec", 5, dataset="amazon-beauty")]
    assert {each.dataset for each in contests(runs, "lrurec", "sasrec", MEASURES)} == {"ml-100k"}
    with pytest.raises(UsageError, match="No data set and protocol has both lrurec and markov"):
        contests(runs, "lrurec", "markov", MEASURES)


def test_one_of_several_configurations_is_chosen_by_its_label(run):
    runs = [run("lrurec", 5, config={"dropout": 0.2}), run("lrurec", 4, 1, config={"dropout": 0.5}), run("sasrec", 9)]
    with pytest.raises(UsageError, match=r"several configurations on ml-100k: lrurec \(dropout=0.2\); lrurec"):
        contests(runs, "lrurec", "sasrec", MEASURES)
    assert len(contests(runs, "lrurec (dropout=0.5)", "sasrec", MEASURES)) == 2


def test_without_ranks_or_with_other_users_nothing_is_compared(run, make_record):
    with pytest.raises(SeqbenchError, match="no ranks"):
        contests([StoredRun(make_record("lrurec")), run("sasrec", 9)], "lrurec", "sasrec", MEASURES)
    with pytest.raises(SeqbenchError, match="different users"):
        contests([run("lrurec", 5), run("sasrec", 9, users=200)], "lrurec", "sasrec", MEASURES)


def test_the_table_says_who_is_better_for_how_many_users(run):
    found = contests([run("lrurec", 2), run("sasrec", 40)], "lrurec", "sasrec", MEASURES)
    text = printed(contests_table("lrurec", "sasrec", found), 140)
    assert "< 0.001" in text
    by_hits, by_rank = (line.split() for line in text.splitlines() if line.startswith(("HR@10", "Mean rank")))
    assert float(by_hits[-2].rstrip("%")) > float(by_hits[-1].rstrip("%"))
    assert float(by_rank[-2].rstrip("%")) > float(by_rank[-1].rstrip("%"))  # a smaller rank is better
    assert "Holm over 2" in text
    narrow = printed(contests_table("lrurec", "sasrec", found), 80)
    assert "…" not in narrow.replace(" … ", "")  # no figure is cut
