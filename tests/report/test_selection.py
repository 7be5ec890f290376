"""Which runs and tables a report is made of."""

import csv
import io
import json
from pathlib import Path

import pytest
from filelock import FileLock
from reportkit import printed, report_of

from seqbench.cli import app
from seqbench.errors import SeqbenchError, UsageError
from seqbench.protocol import PROTOCOLS, Protocol
from seqbench.reporting.document import Table
from seqbench.reporting.runs import StoredRun, load_runs
from seqbench.reporting.selection import Selection
from seqbench.reporting.tables import TABLES
from seqbench.results import write_record
from seqbench.results.store import LOCK, remove_cell
from seqbench.show.runs import runs_table


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


@pytest.fixture
def store(tmp_path, make_record):
    """Three stored runs, one of them failed."""
    made = [make_record("lrurec"), make_record("sasrec", changes={"config": {"dropout": 0.5}}), make_record("sigma")]
    made[2].status, made[2].failure = "failed", {"kind": "error", "message": "x"}
    made[0].validation = {"ndcg@10": 0.4321}
    for record in made:
        write_record(tmp_path, record)
    return tmp_path


def called(capsys, *words):
    """Exit code and stdout of a command."""
    with pytest.raises(SystemExit) as ended:
        app([*map(str, words)])
    return ended.value.code or 0, capsys.readouterr().out


def test_runs_are_listed_with_settings_protocol_validation_and_path(store, capsys):
    code, out = called(capsys, "list", "runs", "--json", "--models", "sasrec,lrurec", "--results", store)
    assert code == 0
    first, second = json.loads(out)
    assert (first["model"], first["validation"]["ndcg@10"]) == ("lrurec", 0.4321)
    assert (second["settings"], second["protocol"]["name"]) == ("dropout=0.5", "fair")
    assert (Path(first["path"]) / "record.json").is_file()
    text = printed(runs_table(load_runs(store)[0], []), 100)
    for words in ("0.4321", "(dropout=0.5)", "fair, 50", first["key"][:7], "failed"):
        assert words in text


def test_stores_are_merged_and_a_finished_cell_counts(store, tmp_path_factory, make_record, capsys):
    other = tmp_path_factory.mktemp("other")
    write_record(other, make_record("gru4rec"))
    write_record(other, make_record("sigma"))  # which failed in the first
    runs, _ = load_runs(store, other)
    assert [(run.record.definition.model, run.record.status) for run in runs] == [
        ("gru4rec", "finished"),
        ("lrurec", "finished"),
        ("sasrec", "finished"),
        ("sigma", "finished"),
    ]
    code, out = called(capsys, "report", "--csv", "--results", f"{store},{other}")
    assert code == 0
    assert {line["model"] for line in csv.DictReader(io.StringIO(out))} == {"gru4rec", "lrurec", "sasrec", "sigma"}
    with pytest.raises(SeqbenchError, match=r"There are no results in .*nothing"):
        app(["report", "--results", f"{store},{other}/nothing"], standalone_mode=False)


def test_runs_are_deleted_by_key_and_by_what_they_are(store, capsys):
    key = next(store.glob("ml-100k/lrurec/*")).name
    assert called(capsys, "rm", key[:8], "--yes", "--quiet", "--results", store) == (0, "")
    assert called(capsys, "rm", "--failed", "--yes", "--quiet", "--results", store) == (0, "")
    assert [path.parent.parent.name for path in store.rglob("record.json")] == ["sasrec"]
    assert not (store / "ml-100k" / "lrurec").exists()


def test_nothing_is_deleted_without_a_choice_or_a_yes(store, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert called(capsys, "rm", "--models", "sasrec", "--results", store)[0] == 1
    with pytest.raises(UsageError, match="Which runs"):
        app(["rm", "--results", str(store)], standalone_mode=False)
    with pytest.raises(UsageError, match="no run has it"):
        app(["rm", "xyz", "--results", str(store)], standalone_mode=False)
    assert len(list(store.rglob("record.json"))) == 3


def test_folders_outside_the_store_and_running_cells_stay(store, tmp_path_factory):
    outside = tmp_path_factory.mktemp("other")
    (store / "ml-100k" / "link").mkdir()
    (store / "ml-100k" / "link" / "key").symlink_to(outside)
    with pytest.raises(SeqbenchError, match="not a run's folder"):
        remove_cell(store, store / "ml-100k" / "link" / "key")
    folder = next(store.glob("ml-100k/lrurec/*"))
    with FileLock(folder / LOCK), pytest.raises(SeqbenchError, match="is being run"):
        remove_cell(store, folder)
    assert (folder / "record.json").exists()
