"""`seqbench report`: tables of the stored results."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli.app import Results, app
from seqbench.errors import SeqbenchError, UsageError
from seqbench.models import MODELS


@app.command(epilog="Examples: seqbench report  •  seqbench report --latex --metric ndcg@10,hr@10 --output table.tex")
def report(
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables (booktabs).")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown tables.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One line per figure.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, with the figure of every seed.")] = False,
    metric: Annotated[str, typer.Option(help="Comma-separated: hr, ndcg, mrr at 5, 10, 20.")] = "hr@10,ndcg@10,mrr@10",
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Write to this file instead of stdout.")] = None,
    results: Results = Path("results"),
) -> None:
    """Tables of accuracy and cost from the stored results."""
    from seqbench.report.csv_json import render_csv, render_json
    from seqbench.report.latex import render_latex
    from seqbench.report.markdown import render_markdown
    from seqbench.report.tables import build_report
    from seqbench.report.terminal import render_terminal
    from seqbench.results import load_records

    chosen = {"--latex": latex, "--markdown": markdown, "--csv": csv, "--json": json}
    if sum(chosen.values()) > 1:
        raise UsageError("Choose one format.", hint="One of " + ", ".join(chosen) + ".")
    records, errors = load_records(results)
    for error in errors:
        console.warn(error.message)
    if not records and errors:
        raise errors[0]
    if not records:
        raise SeqbenchError(f"There are no results in {results}.", hint="Run `seqbench run` first.")
    tables = build_report(records, [word.strip() for word in metric.split(",")], list(MODELS))
    render = next(
        (
            function
            for wanted, function in (
                (latex, render_latex),
                (markdown, render_markdown),
                (csv, render_csv),
                (json, render_json),
            )
            if wanted
        ),
        None,
    )
    if render is None and output is None:
        for block in render_terminal(tables):
            console.out.print(block)
    else:
        text = render(tables) if render else _as_text(render_terminal(tables))
        _write(text, output)
    if errors:
        raise SeqbenchError(f"{len(errors)} records could not be used; see above.", hint=errors[0].hint)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    from seqbench.files import replacing

    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _as_text(blocks: list) -> str:
    from io import StringIO

    from rich.console import Console

    plain = Console(file=StringIO(), width=120, highlight=False)
    for block in blocks:
        plain.print(block)
    return plain.file.getvalue()  # type: ignore[attr-defined]
