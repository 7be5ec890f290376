"""`seqbench recommend`: the best items of many users, by a trained model."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli.app import Home, Quiet, Results, app

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or DATASET/MODEL for the run whose validation is best.")
]
ModelFile = Annotated[
    str | None,
    typer.Option("--model", metavar="FILE:CLASS", help="Where the class is, for a model of yours.", show_default=False),
]


@app.command(
    epilog="Examples: seqbench recommend ml-100k/lrurec --output top.parquet  •  "
    "seqbench recommend ml-100k/lrurec --users histories.csv --k 20 --output top.csv"
)
def recommend(
    run: Run,
    output: Annotated[Path, typer.Option(dir_okay=False, help="Write to this file: .parquet, .csv, .tsv or .jsonl.")],
    users: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="File with columns user and item, a user's items oldest first, and time (seconds since 1970) if the "
            "model uses times; or user alone, of the data set.",
            show_default="all users of the data set",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Items for each user.")] = 10,
    at: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help="When it is asked for, since 1970; a model needs it that was run with --request-time.",
        ),
    ] = None,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Recommend seen items as well.")] = False,
    model: ModelFile = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Recommend items to many users with a trained model, by the raw ids of users and items."""
    import numpy as np
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from seqbench import paths
    from seqbench.api import load
    from seqbench.data.prepared import open_prepared
    from seqbench.device import resolve
    from seqbench.errors import SeqbenchError, UsageError
    from seqbench.inference.best import Histories, best_items
    from seqbench.inference.users import UserHistories, check_output, read_users, users_of, write_recommendations

    console.quiet(quiet)
    check_output(output)
    trained = load(run, model=model, device=str(resolve(device)), results=results)
    definition = trained.record.definition

    def known() -> UserHistories:
        prepared = open_prepared(definition.dataset, paths.home(home))
        if prepared.fingerprint != definition.fingerprint:
            raise SeqbenchError(
                f"{definition.dataset} is not prepared as it was when the model was trained.",
                hint="Prepare it as then, or pass --users with a file of histories.",
            )
        return users_of(prepared)

    config, facts = trained.model.config, trained.record.dataset
    timed = config.uses_times and facts.get("times", True)
    found = known() if users is None else read_users(users, trained.ids, known, timed=timed)
    histories = found.histories
    if config.uses_times and definition.protocol.request_time:
        if at is None:
            raise UsageError(
                f"{definition.model} was trained to know when it is asked.",
                hint="Say it with --at, such as --at $(date +%s).",
            )
        histories = replace(histories, requests=np.full(len(histories), at, np.int64))
    console.note(f"{definition.model} of {trained.folder}: {len(found.users):,} users")
    if found.skipped:
        named = ", ".join(found.unknown[:3]) + (", …" if len(found.unknown) > 3 else "")
        console.warn(f"{found.skipped:,} rows have items that the model has not been trained with ({named}); left out.")
    if without := int((found.histories.lengths == 0).sum()):
        console.warn(f"{without:,} users have no item that the model knows, and get no recommendation.")
    nothing = Histories(found.histories.flat[:0], found.histories.offsets * 0)
    columns = (TextColumn("Recommending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err, transient=True, disable=console.is_quiet()) as bar:
        task = bar.add_task("", total=len(found.users) - without)
        ids, scores = best_items(
            trained.model,
            histories,
            k,
            excluded=nothing if keep_seen else found.histories,
            advance=lambda done: bar.advance(task, done),
        )
    write_recommendations(output, found.users, ids, scores, trained.ids)
    console.note(f"Written to {output}: {(ids > 0).sum():,} recommendations.")
