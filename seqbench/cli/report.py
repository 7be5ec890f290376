"""`seqbench report`: tables of the stored results."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from seqbench import console, paths
from seqbench.cli.app import Home, Stores, app
from seqbench.cli.selecting import Datasets, Models, Protocols, Seeds, Splits
from seqbench.errors import UsageError
from seqbench.evaluation.metrics import METRICS
from seqbench.reporting.formats import FORMATS


@app.command(
    epilog="Examples: seqbench report  •  seqbench report --latex --metric ndcg@10,recall@50,mrr --output table.tex"
)
def report(
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"One of {FORMATS.words()}.", show_default="terminal"),
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables (booktabs); for --format latex.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown tables.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One line per figure.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, with the figure of every seed.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write a page with tables, figures and every cell to this file."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Draw the figures to this folder, as PDF, SVG and PNG (matplotlib)."),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated: {METRICS.words()}; at a cut-off, as in recall@50, or, of mrr and ndcg, without one."
        ),
    ] = "hr@10,ndcg@10,mrr@10",
    baselines: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated models that the others are tested against.",
            show_default="popularity, markov, gru4rec, sasrec, mamba4rec",
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated kinds: accuracy, cost, latency, size (parameters, FLOPs, state), published (the "
            "papers' figures beside ours), beyond (coverage, novelty, …), buckets (the first metric by users' groups), "
            "tuning (what searches cost and chose).",
            show_default="accuracy,cost,latency,tuning",
        ),
    ] = None,
    percentile: Annotated[
        str, typer.Option(help="Comma-separated percentiles of latency: p50, p95, p99 (data formats have all).")
    ] = "p50",
    on: Annotated[
        Literal["test", "valid"], typer.Option(help="Whose accuracy: of the test or the validation targets.")
    ] = "test",
    datasets: Datasets = None,
    models: Models = None,
    protocol: Protocols = None,
    split: Splits = None,
    seeds: Seeds = None,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Write to this file instead of stdout.")] = None,
    results: Stores = Path("results"),
    home: Home = None,
) -> None:
    """Show tables of accuracy and cost from the stored results."""
    from seqbench.api import make_report
    from seqbench.cli.words import split_words
    from seqbench.reporting.formats import as_text

    shorthands = {"latex": latex, "markdown": markdown, "csv": csv, "json": json}
    chosen = [name for name, wanted in shorthands.items() if wanted] + ([format] if format else [])
    if html is not None:
        chosen, output = [*chosen, "html"], html
    if len(chosen) > 1:
        raise UsageError("Choose one format.", hint="One of " + ", ".join(f"--{name}" for name in shorthands) + ".")
    render = FORMATS[chosen[0] if chosen else "terminal"]

    if plots is not None:
        from seqbench.show.plotting import require_matplotlib

        require_matplotlib("--plots")

    def words(text: str | None) -> list[str]:
        return split_words(text or "")

    document = make_report(
        paths.stores(results),
        metrics=words(metric),
        tables=words(table),
        on=on,
        baselines=words(baselines),
        percentiles=words(percentile),
        datasets=words(datasets),
        models=words(models),
        protocols=words(protocol),
        splits=words(split),
        seeds=words(seeds),
        home=home,
    )
    if plots is not None:
        from seqbench.reporting.plots import draw_all

        drawn = draw_all(document, plots)
        console.note(f"{len(drawn)} files are in {plots}.")
        if not chosen and output is None:
            return
    rendered = render(document)
    if output is not None:
        _write(as_text(rendered), output)
    elif isinstance(rendered, str):
        typer.echo(rendered, nl=False)
    else:
        console.out.print(rendered)


def _write(text: str, output: Path) -> None:
    from seqbench.files import writing

    with writing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
