"""The renderers for screens, Markdown and programs."""

import csv
import io
import json

import pytest
from reportkit import printed, report_of

from seqbench.errors import SeqbenchError
from seqbench.reporting.csv_json import render_csv, render_json
from seqbench.reporting.formats import as_text
from seqbench.reporting.markdown import escape, render_markdown
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.terminal import render_terminal
from seqbench.show.numbers import BYTES, PLAIN, choose_unit, decimals_for, fixed
from seqbench.show.runs import runs_table


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_output_fits_and_breaks_no_figure(records, width):
    report = report_of(records)
    text = printed(render_terminal(report), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for section in report.sections:
        for table in section.shown:
            for row in table.rows:
                assert all(cell.text in text for cell in row.cells.values())
                assert all(word in text for word in row.label.split())


def test_decimal_points_stand_below_each_other(make_record):
    made = [make_record(str(scale), cost_scale=scale) for scale in (0.5, 3, 70)]
    lines = printed(render_terminal(report_of(made)), 120).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Training cost"))
    column = lines[start + 1].index("Epoch")
    points = [line.index(".", column) for line in lines[start + 4 : start + 6]]
    assert points[0] == points[1]


def test_best_and_second_are_bold_and_underlined_without_colour(make_record):
    made = [make_record("a", ndcg=0.2), make_record("b", ndcg=0.1)]
    text = printed(render_terminal(report_of(made)), 80, "standard")
    assert "\x1b[1m0.2000\x1b[0m" in text
    assert "\x1b[4m0.1000\x1b[0m" in text


def test_best_and_second_have_characters_where_there_are_no_styles(make_record):
    made = [make_record("a", ndcg=0.2), make_record("b", ndcg=0.1)]
    text = printed(render_terminal(report_of(made)), 80)
    assert "0.2000*" in text
    assert "0.1000+" in text


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_reports_as_text_have_characters_and_no_styles_wherever_they_are_made(make_record, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = as_text(render_terminal(report_of([make_record("a", ndcg=0.2), make_record("b", ndcg=0.1)])))
    assert "\x1b" not in text
    assert "0.2000*" in text


def test_sections_say_what_was_measured_and_warn(records):
    text = " ".join(printed(render_terminal(report_of(records)), 80).split())
    for words in (
        "22,363 users",
        "full ranking, seen items removed",
        "maximum length 50",
        "Example GPU 80GB",
    ):
        assert words in text
    assert "Warning: 22,363 users were prepared" in text


def test_names_with_markup_are_printed_as_they_are(make_record):
    assert "[bold]x[/]" in printed(render_terminal(report_of([make_record("[bold]x[/]")])), 80)
    assert "[bold]x[/]" in printed(runs_table([StoredRun(make_record("[bold]x[/]"))], []), 80)


def test_runs_table_lists_cells_and_unreadable_records(make_record):
    record = make_record(dataset="amazon-beauty", ndcg=0.1234)
    text = printed(runs_table([StoredRun(record)], [SeqbenchError("Record x/record.json is damaged.")]), 100)
    for words in (
        "amazon-beauty",
        "lrurec",
        record.definition.key[:7],
        "0.1234",
        "2025-11-01",
    ):
        assert words in text
    assert "Record x/record.json is damaged." in text


def test_markdown_rows_have_as_many_cells_as_their_header(records):
    columns = 0
    for line in render_markdown(report_of(records)).splitlines():
        if line.startswith("|"):
            count = line.replace(r"\|", "").count("|")
            columns = columns or count
            assert count == columns
        else:
            columns = 0


def test_markdown_marks_best_and_second_and_escapes_names(make_record):
    text = render_markdown(report_of([make_record("a|<b>", ndcg=0.2), make_record("c", ndcg=0.1)]))
    assert "**0.2000**" in text
    assert "<u>0.1000</u>" in text
    assert r"a\|&lt;b&gt;" in text


def test_markdown_escapes_on_one_line():
    assert escape("a\n*b*") == r"a \*b\*"


def test_csv_is_tidy_and_in_base_units(records):
    lines = list(csv.DictReader(io.StringIO(render_csv(report_of(records)))))
    chosen = [
        line
        for line in lines
        if (line["dataset"], line["model"], line["metric"]) == ("amazon-beauty", "lrurec", "ndcg@10")
    ]
    assert len(chosen) == 1
    assert float(chosen[0]["mean"]) == pytest.approx(0.051)
    assert float(chosen[0]["std"]) == pytest.approx(0.001)
    assert chosen[0]["n"] == "3"
    memory = next(line for line in lines if line["metric"] == "peak_memory_bytes" and line["model"] == "recblr")
    assert memory["unit"] == "B"
    assert {"latency_p50", "latency_p95", "latency_p99"} <= {line["metric"] for line in lines}
    assert any(line["model"] == r"a_b&c%$#{}~^\|<u>`*" for line in lines)
    failed = next(line for line in lines if line["model"] == "sigma")
    assert (failed["mean"], failed["n"]) == ("", "0")
    assert "out-of-memory" in failed["note"]


def test_json_is_valid_and_holds_every_seed(records):
    report = json.loads(render_json(report_of(records)))
    rows = report["sections"][0]["tables"][0]["rows"]
    lrurec = next(row for row in rows if row["model"] == "lrurec")
    assert lrurec["cells"]["ndcg@10"]["values"] == pytest.approx({"0": 0.05, "1": 0.051, "2": 0.052})
    assert {table["statistic"] for table in report["sections"][0]["tables"]} == {"", "p50", "p95", "p99"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (9.996, "10.0"), (99.96, "100"), (1234, "1230"), (1.5, "1.50")],
)
def test_three_significant_digits(value, text):
    assert fixed(value, decimals_for(value)) == text


def test_units_follow_the_median():
    assert choose_unit(PLAIN, [0, 1500, 2e6, 3e6]) == ("M", 1e6)
    assert choose_unit(BYTES, [0]) == ("B", 1.0)
    assert choose_unit(PLAIN, []) == ("", 1.0)
