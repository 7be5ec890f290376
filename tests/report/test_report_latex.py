"""LaTeX: it compiles, it is well formed, and it stays what it was."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reportkit import report_of

from seqbench.protocol import Protocol
from seqbench.reporting.latex import escape, render_latex

GOLDEN = Path(__file__).parent / "golden" / "report.tex"
ORDER = ["popularity", "lrurec", "recblr", "linrec", "sigma", "sasrec", "gru4rec"]
COMMANDS = re.compile(
    r"\\text(?:backslash|asciicircum|less|greater|bar)\{\}|\\dots\{\}|\\[&%$#_{}]|\{[\[*]\}"
    r"|\$\\(?:sim|dagger|ddagger|pm|times|mu|le|ge|to|uparrow|downarrow)\$"
)


@pytest.fixture
def rendered(records) -> str:
    return render_latex(report_of(records, model_order=ORDER))


def test_latex_is_what_it_was(rendered):
    """After an intended change, look at the compiled page and write `rendered` to the golden file."""
    assert rendered == GOLDEN.read_text(encoding="utf-8")


@given(st.text())
def test_escaping_never_leaves_a_special_character(text):
    rest = COMMANDS.sub("", escape(text))
    assert not re.search(r"[\\{}&%$#_~^<>|]", rest)
    assert all(" " <= character <= "~" or "À" <= character <= "ÿ" for character in rest)


def test_names_cannot_become_arguments_of_the_line_break_before_them():
    assert escape("[x]*") == "{[}x]{*}"


def test_escaping_keeps_ordinary_text():
    assert escape("SASRec (64 d) – Müller") == "SASRec (64 d) -- Müller"


def test_braces_and_environments_are_balanced(rendered):
    code = "\n".join(line for line in rendered.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[\\{}%]", "", code)
    assert bare.count("{") == bare.count("}")
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([^}]*)\}", code):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []


def test_every_row_fills_every_column(rendered):
    for spec, body in re.findall(r"\\begin\{tabular\}\{@\{\}(.*?)@\{\}\}\n(.*?)\\end\{tabular\}", rendered, re.S):
        columns = len(re.sub(r"@\{[^}]*\}", "", spec))
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        for line in rows:
            spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells - len(spans) + sum(spans) == columns, line


def test_no_vertical_lines_and_booktabs_rules(rendered):
    assert not any("|" in spec for spec in re.findall(r"\\begin\{tabular\}\{(.*)\}", rendered))
    assert r"\toprule" in rendered
    assert r"\hline" not in rendered


def test_data_sets_of_one_protocol_are_column_groups(rendered):
    assert r"\multicolumn{6}{c}{amazon-beauty} & \multicolumn{6}{c}{ml-100k}" in rendered
    assert r"\cmidrule(lr){2-7}\cmidrule(lr){8-13}" in rendered


def test_a_comment_says_how_the_tables_were_made(rendered):
    head = rendered.split("\n\n")[0]
    for words in (
        "seqbench report --latex --metric hr@10,ndcg@10,mrr@10",
        "0123456789abcdef",
        "2025-11-01",
        "booktabs",
    ):
        assert words in head


def test_labels_are_unique(make_record):
    made = [make_record(dataset="a_b"), make_record(dataset="a-b")]
    labels = re.findall(r"\\label\{(.*?)\}", render_latex(report_of(made)))
    assert len(labels) == len(set(labels))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs")
@pytest.mark.parametrize(
    "document_class",
    [
        "article",
        "[twocolumn]article",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("[sigconf,nonacm]acmart", "elsarticle", "[twocolumn]elsarticle", "llncs")
        ),
    ],
)
def test_latex_compiles_below_its_own_preamble(rendered, tmp_path, document_class):
    options, name = re.fullmatch(r"(\[.*\])?(.*)", document_class).groups(default="")
    if not subprocess.run(["kpsewhich", f"{name}.cls"], check=False, capture_output=True).stdout:
        pytest.skip(f"needs {name}.cls")
    preamble = re.findall(r"^% +(\\usepackage.*)$", rendered, re.M)
    page = [
        rf"\documentclass{options}{{{name}}}",
        *preamble,
        r"\begin{document}",
        *([r"\title{T}\author{A}\affiliation{\country{B}}\maketitle"] if name == "acmart" else []),
        "One paragraph.",
        rendered,
        r"\end{document}",
    ]
    (tmp_path / "page.tex").write_text("\n".join(page), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert outcome.returncode == 0, outcome.stdout[-2000:]
    assert "Overfull" not in outcome.stdout


def test_one_table_holds_all_data_sets_of_a_protocol_whatever_their_length(make_record):
    lengths = {"ml-1m": 200, "steam": 50, "sports": 50, "beauty": 50}
    made = [
        make_record(model, seed, dataset, 0.1 + seed / 100, protocol=Protocol(max_len=length))
        for dataset, length in lengths.items()
        for model in ("lrurec", "sasrec")
        for seed in (0, 1)
    ]
    text = render_latex(report_of(made, ["hr@10", "ndcg@10"], tables=["accuracy"]))
    assert text.count(r"\begin{tabular}") == 1
    assert r"\multicolumn{2}{c}{beauty} & \multicolumn{2}{c}{ml-1m} & \multicolumn{2}{c}{sports}" in text
    assert "maximum length 50 on beauty, 200 on ml-1m, 50 on sports, 50 on steam." in text
    assert "Standard deviations over seeds are at most 0.0134." in text  # HR: 1.9 * 0.01 / sqrt(2)
    assert r"\pm" not in text.partition(r"\bottomrule")[0].partition(r"\midrule")[2]


def test_data_sets_with_other_seeds_have_a_table_of_their_own(make_record):
    made = [
        make_record("lrurec", seed, name) for name, seeds in (("beauty", (0, 1)), ("sports", (0,))) for seed in seeds
    ]
    text = render_latex(report_of(made, ["hr@10"], tables=["accuracy"]))
    assert text.count(r"\begin{tabular}") == 2


def test_captions_are_short_and_the_rest_stands_under_the_table(rendered):
    captions = re.findall(r"\\caption\{(.*)\}", rendered)
    assert captions
    assert all(len(caption) < 200 for caption in captions)
    assert not any("users" in caption for caption in captions)


def test_a_table_that_is_higher_than_a_page_is_split_between_its_blocks(make_record):
    made = [make_record(f"model{number}") for number in range(15)]
    text = render_latex(report_of(made, tables=["latency"]))
    parts = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.S)
    assert [part.count("model") for part in parts] == [15, 15, 15]
    assert r"\label{tab:latency-ml-100k-2}" in text


def test_costs_alone_are_written_without_accuracy(make_record):
    text = render_latex(report_of([make_record()], tables=["cost"]))
    assert "Training cost" in text
    assert "Accuracy" not in text
