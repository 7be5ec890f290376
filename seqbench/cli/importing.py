"""`seqbench import`: results of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli.app import Home, Quiet, Results, app, dataset_names
from seqbench.protocol import PROTOCOLS


@app.command(
    "import", epilog="Example: seqbench import bert4rec.csv --dataset ml-100k --model BERT4Rec --protocol recbole"
)
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            dir_okay=False,
            help="Lists (columns user, item and position, rank or score) or ranks (user, rank) of all test users: "
            "Parquet, CSV or TSV with a header, or a TREC run file.",
        ),
    ],
    dataset: Annotated[str, typer.Option(help="The prepared data set.", autocompletion=dataset_names)],
    model: Annotated[str, typer.Option(help="What to call the model.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the other program's run.")] = 0,
    split: Annotated[
        str | None, typer.Option(help="How the other program split.", show_default="that of the data set")
    ] = None,
    protocol: Annotated[str, typer.Option(help=f"What the file was made under: {PROTOCOLS.words()}.")] = "fair",
    max_len: Annotated[
        int | None, typer.Option(min=1, help="Most recent items that the model saw.", show_default="per data set")
    ] = None,
    request_time: Annotated[
        bool, typer.Option("--request-time", help="The model knew when the next item was asked for.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier import.")] = False,
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Store ranked lists or ranks of another program, for the same metrics and tests as models that are run here."""
    import seqbench

    console.quiet(quiet)
    record = seqbench.import_results(
        file,
        dataset,
        model,
        seed=seed,
        split=split,
        protocol=protocol,
        max_len=max_len,
        request_time=request_time,
        force=force,
        results=results,
        home=home,
    )
    shown = [name for name in ("hr@10", "ndcg@10") if name in record.accuracy]
    figures = ", ".join(f"{name} {record.accuracy[name]:.4f}" for name in shown) or "lists shorter than 10 items"
    console.note(f"{record.definition.label()}: {record.dataset['evaluated_users']:,} users, {figures}.")
