"""Marks of an accuracy table: daggers against the best baseline, and who shares the mark of the best."""

import csv
import io

import numpy as np
import pytest
from reportkit import printed, report_of

from seqbench.evaluation.metrics import parse
from seqbench.evaluation.ranks import Ranks
from seqbench.evaluation.statistics import compare, holm
from seqbench.reporting.formats import FORMATS
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.tables import build_report

USERS = 943


@pytest.fixture
def run(make_record, tmp_path):
    """A function that makes a run whose users find their item at about the rank `typical`."""

    def make(model, typical, seed=0, shift=0.0):
        generator = np.random.default_rng([seed, *model.encode()])
        ease = np.random.default_rng(0).exponential(1.0, USERS)  # the same users are easy for all models
        better = (typical * ease * np.exp(generator.normal(shift, 0.3, USERS))).astype(int)
        folder = tmp_path / f"{model}-{seed}"
        Ranks(np.arange(1, USERS + 1), better, np.zeros(USERS, int)).write(folder / "ranks.parquet")
        return StoredRun(make_record(model, seed), folder)

    return make


def accuracy(runs, metrics=("ndcg@10",), **options):
    table = build_report(runs, metrics, **options).sections[0].tables[0]
    return table, {row.model: row.cells[metrics[0]] for row in table.rows}


def test_a_dagger_says_better_than_the_best_baseline(run):
    runs = [run("lrurec", 10), run("recblr", 20), run("sasrec", 20), run("gru4rec", 40), run("linrec", 60)]
    table, cells = accuracy(runs)
    assert {model: cell.dagger for model, cell in cells.items()} == {
        "lrurec": "‡",
        "recblr": "",
        "sasrec": "",
        "gru4rec": "",
        "linrec": "",  # different, but worse
    }
    assert cells["linrec"].difference.p_holm < 0.01
    assert cells["sasrec"].difference is None
    assert "best baseline of the column (SASRec)" in table.remarks[-1]
    assert "Holm over 3 comparisons" in table.remarks[-1]


def test_differences_are_those_of_the_statistics(run):
    runs = [run(model, typical, seed) for model, typical in (("lrurec", 18), ("sasrec", 20)) for seed in (0, 1, 2)]
    _, cells = accuracy(runs, ("hr@10", "mrr"))
    values = {
        model: np.stack([r.per_user(parse("hr@10")) for r in runs if r.record.definition.model == model])
        for model in cells
    }
    expected = compare(values["lrurec"], values["sasrec"])
    found = cells["lrurec"].difference
    assert (found.value, found.low, found.high, found.p) == (
        expected.difference,
        expected.low,
        expected.high,
        expected.p,
    )
    table, _ = accuracy(runs, ("hr@10", "mrr"))
    differences = [table.rows[0].cells[key].difference for key in ("hr@10", "mrr")]
    assert [each.p_holm for each in differences] == holm([each.p for each in differences])


def test_seeds_that_disagree_take_the_dagger_away(run):
    steady = [run("lrurec", 15, seed) for seed in range(3)]
    baseline = [run("sasrec", 20, seed) for seed in range(3)]
    _, cells = accuracy([*steady, *baseline])
    assert cells["lrurec"].dagger
    steady_value = cells["lrurec"].difference.value
    shaky = [run("lrurec", 15, seed, shift) for seed, shift in enumerate((-1.0, 0.0, 1.0))]
    _, cells = accuracy([*shaky, *baseline])
    assert cells["lrurec"].difference.value > steady_value / 3
    assert not cells["lrurec"].dagger


def test_the_best_shares_its_mark_with_what_does_not_differ(run):
    table, cells = accuracy([run("lrurec", 10), run("recblr", 10), run("sigma", 20), run("linrec", 60)])
    assert {model for model, cell in cells.items() if cell.best} == {"lrurec", "recblr"}
    assert {model for model, cell in cells.items() if cell.second} == {"sigma"}
    assert table.remarks == ["The mark of the best is shared by what does not differ from it significantly (p ≥ 0.05)."]


def test_where_nothing_differs_nobody_is_best(run):
    _, cells = accuracy([run("lrurec", 10), run("recblr", 10)])
    assert not any(cell.best or cell.second for cell in cells.values())


def test_a_smaller_mean_rank_gets_the_marks(run):
    _, cells = accuracy([run("lrurec", 10), run("linrec", 30), run("sasrec", 60)], ("rank",))
    assert cells["lrurec"].best
    assert cells["lrurec"].dagger == "‡"
    assert cells["lrurec"].difference.better > cells["lrurec"].difference.worse


def test_baselines_can_be_chosen(run):
    runs = [run("lrurec", 10), run("linrec", 30)]
    assert not accuracy(runs)[1]["lrurec"].dagger
    assert accuracy(runs, baselines=["linrec"])[1]["lrurec"].dagger == "‡"


def test_without_ranks_there_is_no_test(make_record):
    table = report_of([make_record("lrurec", ndcg=0.2), make_record("sasrec", ndcg=0.1)]).sections[0].tables[0]
    assert table.remarks == []
    assert all(cell.difference is None for row in table.rows for cell in row.cells.values())
    assert table.rows[0].cells["ndcg@10"].best


def test_ranks_of_other_users_are_not_compared(run, make_record, tmp_path):
    ranks = Ranks(np.arange(2, USERS + 2), np.zeros(USERS, int), np.zeros(USERS, int))
    ranks.write(tmp_path / "other" / "ranks.parquet")
    _, cells = accuracy([StoredRun(make_record("lrurec"), tmp_path / "other"), run("sasrec", 20)])
    assert cells["lrurec"].difference is None


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shows_the_test(run, name):
    report = build_report([run("lrurec", 10), run("sasrec", 20)], ["hr@10"])
    rendered = FORMATS[name](report)
    text = rendered if isinstance(rendered, str) else printed(rendered, 100)
    if name == "csv":
        (line,) = [each for each in csv.DictReader(io.StringIO(text)) if each["baseline"]]
        assert float(line["low"]) < float(line["difference"]) < float(line["high"])
        assert float(line["p_holm"]) < 0.01
    else:
        assert {"latex": r"\ddagger", "json": '"dagger": "\\u2021"'}.get(name, "‡") in text
        assert "Holm over 1 comparison." in text or name == "json"
