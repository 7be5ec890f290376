"""Reports compute metrics from stored ranks, and make do with what is stored."""

import numpy as np
import pytest
from reportkit import printed, report_of

from seqbench.errors import UsageError
from seqbench.evaluation import metrics
from seqbench.evaluation.metrics import METRICS, STANDARD, Metric
from seqbench.evaluation.ranks import Ranks
from seqbench.reporting.document import Report
from seqbench.reporting.formats import FORMATS, as_text
from seqbench.reporting.runs import StoredRun, load_runs
from seqbench.reporting.tables import build_report
from seqbench.results import RANKS, write_record

USERS, ITEMS = 943, 1349


@pytest.fixture
def stored(tmp_path, make_record):
    """A function that stores a run with ranks drawn from a seed, and returns its record, ranks and folder."""

    def store(model="lrurec", seed=0, **changes):
        generator = np.random.default_rng([seed, *model.encode()])
        better = generator.integers(0, ITEMS - 20, USERS)
        ranks = Ranks(np.arange(1, USERS + 1), better, generator.integers(0, 3, USERS))
        record = make_record(model, seed)
        record.accuracy = metrics.means(ranks.better, ranks.ties)
        for name, value in changes.items():
            setattr(record, name, value)
        write_record(tmp_path, record)
        folder = record.definition.folder(tmp_path)
        ranks.write(folder / RANKS)
        return record, ranks, folder

    return store


def cells(report, row=0):
    return report.sections[0].tables[0].rows[row].cells


def test_means_of_ranks_are_the_stored_ones_bit_for_bit(stored, tmp_path):
    record, _, _ = stored()
    runs, errors = load_runs(tmp_path)
    assert errors == []
    found = cells(build_report(runs, STANDARD))
    assert {key: cell.mean for key, cell in found.items()} == record.accuracy


def test_finished_runs_get_metrics_that_no_record_keeps(stored, tmp_path):
    _, ranks, _ = stored()
    wanted = ["hr@1", "recall@50", "ndcg@200", "mrr", "rank"]
    report = build_report(load_runs(tmp_path)[0], wanted)
    for key in wanted:
        assert cells(report)[key].mean == ranks.per_user(key).mean()
    columns = report.sections[0].tables[0].columns
    assert [column.header for column in columns] == ["HR@1 ↑", "Recall@50 ↑", "NDCG@200 ↑", "MRR ↑", "Mean rank ↓"]
    assert cells(report)["rank"].text == f"{ranks.per_user('rank').mean():.1f}"


def test_without_ranks_the_means_of_the_record_are_shown_and_others_are_explained(stored, tmp_path):
    record, _, folder = stored()
    stored(seed=1)
    (folder / RANKS).unlink()
    report = build_report(load_runs(tmp_path)[0], ["hr@10", "hr@50"])
    table = report.sections[0].tables[0]
    assert cells(report)["hr@10"].values["0"] == record.accuracy["hr@10"]
    assert list(cells(report)["hr@50"].values) == ["1"]
    assert table.footnotes == ["without seed 0: HR@50 needs the ranks, which were not kept"]
    alone = report_of([record], ["hr@50"])
    assert cells(alone)["hr@50"].text == "--"
    assert alone.sections[0].tables[0].footnotes == ["HR@50 needs the ranks, which were not kept"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path, ranks: path.write_bytes(b"PAR1 not at all"), "is damaged"),
        (
            lambda path, ranks: Ranks(ranks.users, ranks.better + ITEMS, ranks.ties).write(path),
            "beyond the 1,349 items",
        ),
        (lambda path, ranks: Ranks(ranks.users[1:], ranks.better[1:], ranks.ties[1:]).write(path), "942 users"),
    ],
)
def test_damaged_ranks_cost_a_warning_and_nothing_else(stored, tmp_path, spoil, reason):
    record, ranks, folder = stored()
    spoil(folder / RANKS, ranks)
    report = build_report(load_runs(tmp_path)[0])
    assert cells(report)["ndcg@10"].mean == record.accuracy["ndcg@10"]
    (warning,) = report.sections[0].warnings
    assert reason in warning
    assert warning.endswith("The means of its record are shown.")


def test_a_metric_of_ones_own_is_a_column(stored, tmp_path):
    stored()
    first = Metric("First", lambda ranks: (ranks == 1).astype(float), decimals=2)
    with METRICS.added("first", first):
        report = build_report(load_runs(tmp_path)[0], ["first@3", "hr@1"])
        assert cells(report)["first@3"].mean == cells(report)["hr@1"].mean
        assert "First@3 ↑" in printed(FORMATS["terminal"](report), 100)


def test_a_format_of_ones_own_gets_the_report(make_record):
    def titles(report: Report) -> str:
        return ", ".join(section.title for section in report.sections) + "\n"

    with FORMATS.added("titles", titles):
        assert FORMATS["titles"](report_of([make_record()])) == "ml-100k\n"
    with pytest.raises(UsageError, match="Format 'titles' is unknown"):
        FORMATS["titles"]


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_text_of_a_record_can_command_a_terminal(make_record, name):
    record = make_record("\x1b]0;owned\x07model")
    record.dataset["filters"] = "5-core\x1b[2J\u202e"
    record.environment = {**record.environment, "cpu": "\x9b31mcpu"}
    text = as_text(FORMATS[name](build_report([StoredRun(record)])))
    assert not any(character in text for character in "\x1b\x07\x9b\u202e")
    assert "owned" in text
