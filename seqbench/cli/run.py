"""`seqbench run`: train, evaluate and measure."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console, paths
from seqbench.cli.app import Home, Quiet, Results, app
from seqbench.protocol import PROTOCOLS, choose


@app.command(
    epilog="Examples: seqbench run --models lrurec,sasrec --seeds 0,1  •  "
    "seqbench run --models lrurec --datasets ml-100k --set lrurec.dropout=0.5"
)
def run(
    models: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated models (see `seqbench list models`), or path/to/file.py:ClassName for one of yours.",
            show_default="all",
        ),
    ] = None,
    datasets: Annotated[
        str | None, typer.Option(help="Comma-separated data sets.", show_default="all that are prepared")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds; each is a run of its own.")] = "0",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most.", show_default="per model")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="leave-one-out, temporal (one point in time for all users), or given (as the data's authors split).",
            show_default="leave-one-out; given where there is one",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="How models are trained and judged: "
            + "; ".join(f"{name} ({each.summary()})" for name, each in PROTOCOLS.items())
            + "."
        ),
    ] = "fair",
    max_len: Annotated[
        int | None,
        typer.Option(min=1, help="Most recent items that a model sees.", show_default="per data set"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper: what a model's paper sets for each data set, where it says so.",
            show_default="each model's defaults on all data sets",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODEL.FIELD=VALUE", help="Change a model's setting; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    backend: Annotated[
        str,
        typer.Option(help="Backend of the scans and the loss, or auto; see `seqbench env`.", envvar="SEQBENCH_BACKEND"),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be run.")] = False,
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate and measure: one cell for each data set, model and seed. Finished cells are skipped."""
    from seqbench import plan
    from seqbench.data.chosen import datasets_of_run
    from seqbench.run import check_writable, failed_summary, run_cells

    console.quiet(quiet)
    names = plan.parse_models(models)
    numbers = plan.parse_seeds(seeds)
    overrides = plan.parse_overrides(settings or [], names)
    root = paths.home(home)
    if not dry_run:
        check_writable(results)
    cells = []
    target = plan.resolve_device(device)
    for prepared in datasets_of_run(plan.parse_datasets(datasets), root, dry_run=dry_run):
        chosen_split = split or prepared.splits[0]
        conditions = choose(protocol, split=chosen_split, max_len=max_len or prepared.max_len)
        prepared.check_split(chosen_split)
        definitions = plan.define(
            prepared,
            names,
            numbers,
            protocol=conditions,
            preset=preset,
            overrides=overrides,
            epochs=epochs,
            device=target,
            backend=backend,
        )
        cells += [plan.look_up(definition, results, force=force) for definition in definitions]
    if dry_run:
        console.out.print(plan.plan_table(cells, results))
        return
    try:
        failures = run_cells(cells, models=names, home=root, results=results, device=target)
    except KeyboardInterrupt:
        console.err.print("Interrupted. Finished runs are kept; repeat the command to resume.")
        raise typer.Exit(130) from None
    if failures:
        raise failed_summary(failures, len(cells))
    console.note("Done. `seqbench report` shows the tables.")
