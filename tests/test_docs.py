"""The documentation: its examples run, its commands parse, and no public function is missing from it."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import seqbench
from seqbench import ops
from seqbench.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^ {4}(?:\$ )?(seqbench [a-z].*)$|`(seqbench [a-z][^`]*)`", re.MULTILINE)


def commands() -> list[str]:
    """Every `seqbench …` line of the documentation, without its comment."""
    found = [block or inline for page in PAGES for block, inline in COMMAND.findall(page.read_text(encoding="utf-8"))]
    # Output of seqbench begins like a command ("seqbench 0.1.0, PyTorch …"), prose has `seqbench run` alone.
    return sorted({re.sub(r"\s+#.*| > .*", "", each).strip() for each in found})


def test_there_are_commands() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_documentation_exist_with_their_options(command: str) -> None:
    node, words = get_command(app), shlex.split(command)[1:]
    while words and not words[0].startswith("--") and hasattr(node, "commands"):
        node = node.commands[words.pop(0)]
    known = {option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given - known - {"--help"} == set()


def examples(page: Path) -> str:
    """The Python blocks of a page, on their own lines, so that a failure names the line of the page."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        inside = (line == "```python") if fence else inside
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["python.md", "using-models.md"])
def test_python_examples_run(name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqbench.evaluation.metrics import METRICS

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQBENCH_HOME", str(home))
    page = ROOT / "docs" / name
    try:
        exec(compile(examples(page), str(page), "exec"), {"__name__": "python"})
    finally:
        if "page" in METRICS:
            METRICS.remove("page")
    if name == "python.md":
        assert sorted(path.name for path in (tmp_path / "results" / "synthetic").iterdir()) == ["lrurec", "popularity"]


def test_public_names_are_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^::: seqbench\.[\w.]*\.(\w+)$", reference, re.MULTILINE))
    assert {*seqbench.__all__, *ops.__all__} - described == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in navigation] == []


def test_models_and_figures_of_the_table_are_described() -> None:
    from seqbench.models import MODELS
    from seqbench.protocol import PROTOCOLS
    from seqbench.reporting.costs import QUANTITIES

    models, protocols, figures, operators = (
        (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for page in ("models", "protocols", "figures", "kernels")
    )
    assert [name for name in MODELS if f"| `{name}` |" not in models] == []
    assert [name for name in PROTOCOLS if f"| `{name}` |" not in protocols] == []
    assert [name for name in ops.__all__ if f"| `{name}` |" not in operators] == []
    assert [each.column.title for each in QUANTITIES if f"| {each.column.title} |" not in figures] == []
