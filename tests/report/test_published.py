"""Published figures: the file is sound, and comparisons are made with the same data and protocol only."""

import pytest
from reportkit import report_of

from seqbench.protocol import PROTOCOLS, Protocol
from seqbench.reporting.formats import FORMATS, as_text
from seqbench.reporting.published import published


@pytest.fixture
def record(make_record):
    """A function that makes a record on ML-1M as LRURec's paper has it."""

    def make(seed=0, value=0.19, protocol="lrurec", users=6040, max_len=200, **options):
        protocol = Protocol(**{**vars(PROTOCOLS[protocol]), "max_len": max_len})
        made = make_record("lrurec", seed, "ml-1m", value, protocol=protocol, **options)
        made.dataset.update(users=users, items=3416, evaluated_users=users)
        return made

    return make


def table(records, metrics=("ndcg@10",)):
    (found,) = report_of(records, metrics, tables=["published"]).sections[0].tables
    return found


def test_all_published_figures_are_of_our_protocols_and_between_0_and_1():
    assert len(published()) > 300
    assert {each.protocol for each in published()} <= set(PROTOCOLS)
    assert all(0 < each.value < 1 and each.users > 900 for each in published())


def test_ours_stand_beside_those_of_the_same_data_and_protocol(record):
    made = table([record(seed, value) for seed, value in enumerate((0.190, 0.192, 0.194))])
    (row,) = made.rows
    assert row.cells["ndcg@10"].text == "0.1920"
    assert row.cells["ndcg@10 published"].text == "0.1930"  # 0.19298 in Table 3
    difference = row.cells["ndcg@10 difference"]
    assert difference.text == "-0.0010"
    assert [made.footnotes[note] for note in difference.notes] == ["within 2 standard deviations over our seeds"]
    assert "LRURec: LRURec paper Table 3" in [made.footnotes[note] for note in row.notes]


def test_a_figure_outside_the_spread_is_not_called_reached(record):
    row = table([record(seed, value) for seed, value in enumerate((0.150, 0.151))]).rows[0]
    assert row.cells["ndcg@10 difference"].text == "-0.0425"
    assert row.cells["ndcg@10 difference"].notes == []


def test_recall_of_papers_is_hr(record):
    cells = table([record()], ("hr@10", "recall@10")).rows[0].cells
    assert cells["hr@10 published"].text == cells["recall@10 published"].text != "--"


@pytest.mark.parametrize("other", [{"users": 6039}, {"protocol": "fair"}])
def test_what_is_not_comparable_is_said_to_be_so(record, other):
    made = table([record(**other)])
    cell = made.rows[0].cells["ndcg@10 published"]
    assert cell.text == "--"
    assert [made.footnotes[note] for note in cell.notes] == ["no comparable figure"]


def test_another_length_is_named(record):
    made = table([record(max_len=50)])
    assert "published at maximum length 200, measured at 50" in made.footnotes


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_can_show_it(record, name):
    report = report_of([record()], ["ndcg@10"], tables=["published"])
    assert "0.1930" in as_text(FORMATS[name](report)) or name in ("csv", "json")
