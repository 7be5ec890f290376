"""Figures of a report as files for a paper."""

import pytest
from reportkit import report_of

from seqbench.reporting import plots

pytest.importorskip("matplotlib")


def test_figures_are_written_in_three_forms_with_names_as_they_are(make_record, tmp_path):
    made = [make_record(name, cost_scale=scale) for name, scale in (("_x$y$", 1), ("b & <c>", 2))]
    made[0].cost["fit_conditions"] = {"disturbances": ["x"]}
    report = report_of(made, ["ndcg@10"])
    one = next(figure for figure in plots.figures(report.sections[0], "ndcg@10") if figure.name == "accuracy-training")
    files = list(plots._draw(one, tmp_path, "fit"))
    assert sorted(path.name for path in files) == ["fit.pdf", "fit.png", "fit.svg"]
    text = (tmp_path / "fit.svg").read_text(encoding="utf-8")
    for words in ("_x$y$", "b &amp; &lt;c&gt;", "NDCG@10", "training time in s"):
        assert words in text
    assert (tmp_path / "fit.pdf").read_bytes().startswith(b"%PDF")


def test_sections_of_one_name_do_not_overwrite_each_other(make_record, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(plots, "_draw", lambda figure, folder, name: written.append(name) or [])
    plots.draw_all(report_of([make_record(), make_record(fingerprint="0"), make_record(device="cuda")]), tmp_path)
    assert len(set(written)) == len(written) > 4
