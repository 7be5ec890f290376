"""Which runs and tables a report is made of."""

import pytest
from reportkit import report_of

from seqbench.errors import UsageError
from seqbench.protocol import PROTOCOLS, Protocol
from seqbench.reporting.document import Table
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.selection import Selection
from seqbench.reporting.tables import TABLES


@pytest.fixture
def runs(make_record):
    made = [make_record(model, seed) for model in ("lrurec", "sasrec") for seed in (0, 1)]
    made += [make_record(dataset="amazon-beauty"), make_record(protocol=Protocol(split="temporal"))]
    made += [make_record(protocol=PROTOCOLS["recbole"])]
    return [StoredRun(record) for record in made]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ({}, 7),
        ({"datasets": "ml-100k"}, 6),
        ({"models": "sasrec, lrurec"}, 7),
        ({"models": "sasrec"}, 2),
        ({"protocols": "recbole"}, 1),
        ({"splits": "temporal"}, 1),
        ({"models": "lrurec", "seeds": "1"}, 1),
        ({"datasets": None, "models": ""}, 7),
    ],
)
def test_runs_are_chosen_by_name(runs, words, count):
    assert len(Selection.parse(**words).apply(runs)) == count


def test_a_name_that_nothing_has_gets_the_nearest_suggested(runs):
    with pytest.raises(UsageError, match=r"Model of a stored run 'sasrek' is unknown\. Did you mean sasrec\?"):
        Selection.parse(models="sasrek").apply(runs)


def kinds(report):
    return [table.kind for table in report.sections[0].shown]


def test_tables_are_chosen_and_stand_in_their_own_order(make_record):
    assert kinds(report_of([make_record()])) == ["accuracy", "cost", "latency"]
    assert kinds(report_of([make_record()], tables=["latency", "accuracy"])) == ["accuracy", "latency"]
    with pytest.raises(UsageError, match=r"Table 'acuracy' is unknown\. Did you mean accuracy"):
        report_of([make_record()], tables=["acuracy"])


def test_a_table_of_ones_own_is_one_entry(make_record):
    with TABLES.added("seeds", lambda material: [Table("seeds", f"Seeds {material.seeds}", [])]):
        (table,) = report_of([make_record(seed=3)], tables=["seeds"]).sections[0].tables
    assert table.heading == "Seeds [3]"


def test_validation_figures_can_be_shown_and_say_so(make_record):
    record = make_record()
    record.validation = {"ndcg@10": 0.4321}
    table = report_of([record], ["ndcg@10"], on="valid").sections[0].tables[0]
    assert table.heading == "Accuracy on validation targets"
    assert table.rows[0].cells["ndcg@10"].text == "0.4321"


def test_settings_of_all_trained_models_are_said_once(make_record):
    changes = {"config": {}, "training": {"epochs": 15}}
    made = [make_record(model, changes=changes) for model in ("lrurec", "sasrec")]
    counting = make_record("popularity", changes={})
    for record in made:
        record.definition.training["epochs"] = 15
    object.__setattr__(counting.definition, "training", None)
    section = report_of([*made, counting]).sections[0]
    assert [row.label for row in section.tables[0].rows] == ["LRURec", "Popularity", "SASRec"]
    assert "All trained models with epochs=15." in section.description()
    assert report_of(made[:1]).sections[0].tables[0].rows[0].label == "LRURec (epochs=15)"


def test_times_of_training_are_on_one_clock(make_record):
    table = report_of([make_record(epochs=20, best_epoch=12)]).sections[0].tables[1]
    assert table.rows[0].cells["seconds_to_best"].mean == pytest.approx(12 * 5.5)
    assert "Epoch, Time to best and Fit count the steps of training only" in table.remarks[0]


def test_latencies_of_several_seeds_say_what_they_are(make_record):
    table = report_of([make_record(seed=seed) for seed in (0, 1)]).sections[0].tables[2]
    assert table.remarks == ["Each figure is the mean of the p50 of every seed."]


def test_a_tiny_test_set_is_warned_of(make_record):
    record = make_record()
    record.dataset["evaluated_users"] = 40
    assert report_of([record]).sections[0].warnings == ["Only 40 users are tested: differences are mostly chance."]
