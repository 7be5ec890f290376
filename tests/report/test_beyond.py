"""What lists are like beyond containing the target, and which users a model serves well: counted by hand."""

import numpy as np
import pytest
from reportkit import printed

from seqbench.data.sequences import split_sequences
from seqbench.errors import SeqbenchError
from seqbench.evaluation import beyond
from seqbench.evaluation.background import background, groups
from seqbench.evaluation.metrics import parse
from seqbench.evaluation.ranks import Ranks
from seqbench.evaluation.statistics import compare
from seqbench.reporting import comparison, tables
from seqbench.reporting.runs import StoredRun
from seqbench.results import RANKS, TOP
from seqbench.show.contests import groups_table

# Items 1 to 4; the last two interactions of a user are the validation and the test target.
USERS = np.array([1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3], np.int32)
ITEMS = np.array([1, 2, 1, 3, 1, 2, 2, 3, 4, 2, 1, 4], np.int32)
DAYS = np.array([0.0, 1.0, 2.0, 9.5, 0.5, 1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0])
LISTS = np.array([[2, 1], [2, 3], [2, 0]])


@pytest.fixture
def known():
    sequences = split_sequences(USERS, ITEMS, (DAYS * 2).astype(int), split="leave-one-out")
    return background(sequences, DAYS)


def test_popularity_counts_users_of_the_training_part(known):
    # Training: user 1 has 1, 2; user 2 has 1, 2, 2; user 3 has 2.
    assert known.popularity.tolist() == [0, 2, 3, 0, 0]
    assert known.audience == 3
    assert known.histories.tolist() == [3, 4, 2]
    assert known.taste == pytest.approx([(2 + 3 + 2) / 3, (2 + 3 + 3 + 0) / 4, (3 + 2) / 2])
    assert known.targets.tolist() == [3, 4, 4]
    assert known.ages.tolist() == [6, 1, 0]  # item 3 is there since day 3, item 4 since day 6


def test_lists_are_as_counted_by_hand(known):
    assert beyond.coverage(LISTS, items=4) == 3 / 4
    # Counts 0, 1, 1, 3, weights -3, -1, 1, 3, over 4 items and 5 recommendations.
    assert beyond.gini(LISTS, items=4) == pytest.approx((0 - 1 + 1 + 9) / (4 * 5))
    # Item 2 has all users; item 1 two of three; item 3 none, which counts as one.
    assert beyond.novelty(LISTS, known.popularity, 3) == pytest.approx((np.log2(3 / 2) + np.log2(3)) / 5)
    means = np.mean([(3 + 2) / 2, (3 + 0) / 2, 3])
    assert beyond.popularity_lift(LISTS, known.popularity, known.taste) == pytest.approx(means / known.taste.mean())
    assert beyond.overlap([LISTS, np.array([[1, 2], [4, 3], [1, 0]])]) == pytest.approx((2 + 1 + 0) / 5)


def test_the_same_list_for_all_covers_little_and_all_items_alike_are_even():
    assert beyond.gini(np.array([[1], [1]]), items=100) == pytest.approx(0.99)
    assert beyond.gini(np.array([[1, 2], [3, 4]]), items=4) == 0


def test_groups_are_quarters_and_nobody_is_lost(known):
    by_length, by_popularity, by_age = groups(known).values()
    assert [each.title for each in by_length] == ["2", "3", "4"]
    assert [each.title for each in by_popularity] == ["0"]  # targets that nobody has in training
    assert [(each.title, each.members.tolist()) for each in by_age] == [
        ("0", [False, False, True]),
        ("1", [False, True, False]),
        ("6", [True, False, False]),
    ]


@pytest.fixture
def runs(make_record, tmp_path, monkeypatch, known):
    """Two seeds of one model and one of another; hits at 1: of the users 1 and 3, of all, of none."""
    monkeypatch.setattr(tables, "_background", lambda *_: known)
    monkeypatch.setattr(comparison, "read_background", lambda *_: known)
    monkeypatch.setattr(comparison, "SMALLEST_GROUP", 1)
    made = []
    for model, seed, better in (("lrurec", 0, [0, 5, 0]), ("lrurec", 1, [0, 0, 0]), ("sasrec", 0, [9, 9, 9])):
        folder = tmp_path / f"{model}-{seed}"
        ranks = Ranks(np.array([1, 2, 3]), np.array(better), np.zeros(3, int), LISTS)
        ranks.write(folder / RANKS)
        ranks.write_top(folder / TOP)
        record = make_record(model, seed)
        record.dataset.update(evaluated_users=3, items=100)
        made.append(StoredRun(record, folder))
    return made


def test_the_tables_hold_what_was_counted(runs):
    report = tables.build_report(runs, ["hr@1"], tables=["beyond", "buckets"])
    lists, by_length, *_ = report.sections[0].tables
    lrurec, sasrec = (row.cells for row in lists.rows)
    assert lrurec["coverage"].values == {"0": 0.03, "1": 0.03}
    assert lrurec["overlap"].mean == 1
    assert sasrec["overlap"].text == "n/a"
    assert [column.unit for column in by_length.columns] == ["1 user"] * 3
    assert [cell.mean for cell in by_length.rows[0].cells.values()] == [1, 1, 0.5]
    assert [cell.text for cell in by_length.rows[1].cells.values()] == ["0.0000"] * 3


def test_without_the_prepared_data_what_needs_it_says_so(runs, monkeypatch):
    def missing(*_):
        raise SeqbenchError("ml-100k is not prepared.", hint="Prepare it.")

    monkeypatch.setattr(tables, "_background", missing)
    (section,) = tables.build_report(runs, ["hr@1"], tables=["beyond", "buckets"]).sections
    (lists,) = section.tables
    assert lists.rows[0].cells["coverage"].n == 2
    assert lists.footnotes[lists.rows[0].cells["novelty"].notes[0]] == "needs the prepared data set"
    assert "ml-100k is not prepared. Prepare it." in section.warnings


def test_failed_runs_have_no_figures_though_their_files_are_there(runs):
    runs[2].record.status, runs[2].record.failure = "failed", {"kind": "error", "message": "x"}
    _, by_length, *_ = tables.build_report(runs, ["hr@1"], tables=["beyond", "buckets"]).sections[0].tables
    assert {cell.text for cell in by_length.rows[1].cells.values()} == {"--"}


def test_lists_of_other_users_or_items_are_not_believed(runs):
    runs[0].record.dataset["items"] = 2
    assert runs[0].lists(2) is None
    assert "does not fit its record" in runs[0].problem
    assert runs[1].lists(2).tolist() == LISTS.tolist()


def test_comparisons_of_groups_are_those_of_their_users(runs, known, monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "groups", lambda _: {"both": groups(known)["length of the history"][:1]})
    known.histories[:] = 2
    found, errors = comparison.group_contests(runs, "lrurec", "sasrec", parse("hr@1"), tmp_path)
    assert errors == []
    values = [np.array([[1.0, 0, 1], [1, 1, 1]]), np.zeros((1, 3))]
    assert found[0].comparison == compare(*values)
    assert "+0.8333" in printed(groups_table("lrurec", "sasrec", found), 80)
