"""The page of a report: whole in itself, safe whatever records hold, and it can be sorted."""

import base64
import dataclasses
import hashlib
import html
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
from reportkit import report_of

from seqbench.cli import app
from seqbench.protocol import Protocol
from seqbench.reporting.figures import Axis, Figure, Series, figures, pareto
from seqbench.reporting.html import command, render_html
from seqbench.reporting.svg import draw
from seqbench.results import write_record
from tests.kit import PATIENCE

ATTACK = "</style></script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>\"'&{{7*7}}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page(records):
    return render_html(report_of(records))


def test_the_page_needs_nothing_from_elsewhere_and_allows_no_other_script(page):
    assert not re.search(r"(?:src|href)=.(?!#)", page)
    assert "@import" not in page
    assert "url(" not in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_every_section_table_row_and_cell_is_there(records):
    report = report_of(records)
    page = html.unescape(render_html(report))
    for section in report.sections:
        for words in [section.title, *section.description(), *section.warnings]:
            assert words in page
        for table in section.shown:
            assert all(words in page for words in [table.heading, *table.footnotes, *table.remarks])
            assert all(row.label in page for row in table.rows)
    assert page.count("<details>") == len(records)
    assert page.count("f1e2d3c4b5a6") == len(records)  # the data's checksum


def attacked(make_record):
    environment = {"cpu": ATTACK, "cores": 2, "seqbench": ATTACK, "git_commit": ATTACK}
    record = make_record(ATTACK, dataset=ATTACK, config={ATTACK: ATTACK}, environment=environment)
    record.changes = {"config": {ATTACK: ATTACK}}
    record.dataset["count_mismatch"] = record.dataset["filters"] = ATTACK
    failed = make_record("b", dataset=ATTACK)
    failed.status, failed.failure = "failed", {"kind": ATTACK, "message": ATTACK}
    record.cost["conditions"] = {"disturbances": [ATTACK]}
    return [record, failed, make_record("c", dataset=ATTACK, protocol=Protocol(name=ATTACK))]


def test_what_records_hold_is_text_and_nothing_else(make_record):
    page = render_html(report_of(attacked(make_record)))
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "49" not in re.findall(r"<h2[^>]*>(.*?)</h2>", page)[0]  # no template of its own
    assert page.count(html.escape("<img src=x")) > 20


def test_a_command_repeats_its_cell(make_record):
    changes = {"config": {"dropout": 0.5}, "training": {"epochs": 3, "loss": "a b"}}
    definition = make_record("lrurec", 2).definition
    words = shlex.split(command(definition, changes))
    assert words[:8] == ["seqbench", "run", "--models", "lrurec", "--datasets", "ml-100k", "--seeds", "2"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--set"] == [
        "lrurec.dropout=0.5",
        "lrurec.epochs=3",
        "lrurec.loss=a b",
    ]


def test_a_command_says_the_precision_unless_it_is_the_usual_one(make_record):
    definition = make_record("lrurec", 2).definition
    assert "--precision" not in command(definition, None)
    assert command(dataclasses.replace(definition, precision="bf16"), None).endswith("--precision bf16")


def test_a_command_starts_as_many_processes_as_there_were(make_record):
    definition = dataclasses.replace(make_record("lrurec", 2).definition, world_size=4)
    assert command(definition, None).startswith("torchrun --nproc-per-node 4 -m seqbench run --models lrurec ")


def test_what_was_imported_has_a_source_and_no_command(make_record):
    record = make_record("theirs")
    record.imported = {"file": "lists.csv", "sha256": "ab" * 32, "depth": 20}
    page = render_html(report_of([record]))
    assert "seqbench run" not in page
    assert f"from lists.csv, sha256 {'ab' * 32}" in page


def test_the_front_holds_what_nothing_beats():
    assert pareto([(2, 5), (1, 3), (3, 5), (2, 4), (4, 9), (1, 2)]) == [(1, 3), (2, 5), (4, 9)]


def test_noisy_and_counting_models_are_off_the_front(make_record):
    made = [make_record(name, ndcg=ndcg, cost_scale=cost) for name, ndcg, cost in (("a", 0.1, 1), ("b", 0.2, 2))]
    noisy, counting = make_record("c", ndcg=0.3, cost_scale=0.1), make_record("d", ndcg=0.4, cost_scale=0.01)
    noisy.cost["fit_conditions"] = {"disturbances": ["x"]}
    object.__setattr__(counting.definition, "training", None)
    (section,) = report_of([*made, noisy, counting]).sections
    drawn = {figure.name: figure for figure in figures(section, "ndcg@10")}
    assert drawn["accuracy-training"].front == [(110, 0.1), (220, 0.2)]
    assert [series.noisy for series in drawn["accuracy-training"].series] == [False, False, True, False]
    assert list(drawn) == ["accuracy-training", "accuracy-latency", "latency-batch-1", "latency-batch-64", "training"]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[3.0], [5.0, 5.0], [1e-7, 1e9], [1.0, 1.0000001]])
def test_figures_of_any_values_are_drawn_within_their_frame(values, log):
    points = [(value, value) for value in values]
    figure = Figure("x", "<t>", Axis("&", log), Axis("y", log), [Series("<a>", points, 11)])
    root = ElementTree.fromstring(draw(figure))
    places = [float(mark.get("cx") or 0) for mark in root.iter("circle")]
    assert all(58 <= place <= 448 for place in places)
    assert sum(1 for text in root.iter("text")) >= 4


def test_the_command_line_writes_the_page(tmp_path, make_record, capsys):
    write_record(tmp_path / "store", make_record())
    with pytest.raises(SystemExit):
        app(["report", "--results", str(tmp_path / "store"), "--html", str(tmp_path / "page.html")])
    assert capsys.readouterr().out == ""
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def browsed(page, tmp_path):
    """The page as a browser has it after all scripts ran."""
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_sorts_by_the_column_that_is_clicked(make_record, tmp_path):
    values = {"a": 0.1, "b": 0.3, "c": 0.2}
    page = render_html(report_of([make_record(model, ndcg=value) for model, value in values.items()], ["ndcg@10"]))
    page = re.sub(r'<meta http-equiv="Content-Security.*?>', "", page)
    for clicks, order in ((0, "abc"), (1, "bca"), (2, "acb")):
        click = "document.querySelectorAll('table')[0].querySelectorAll('button')[1].click();" * clicks
        found = browsed(page.replace("</body>", f"<script>{click}</script></body>"), tmp_path).partition("<body>")[2]
        body = found[found.index("<tbody>") : found.index("</tbody>")]
        assert "".join(re.findall(r'<th scope="row">(\w)', body)) == order
        assert ('aria-sort="descending"' in found, 'aria-sort="ascending"' in found) == (clicks == 1, clicks == 2)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_runs_nothing_that_a_record_holds(make_record, tmp_path):
    assert "<title>seqbench report</title>" in browsed(render_html(report_of(attacked(make_record))), tmp_path)
