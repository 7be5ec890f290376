"""`seqbench tune`: search for better settings, with the same budget for every model."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.api import CellOptions
from seqbench.cli import words
from seqbench.cli.app import Home, Quiet, Results, app
from seqbench.cli.cells import (
    Address,
    Backend,
    Datasets,
    Device,
    Epochs,
    Executor,
    Jobs,
    MaxLen,
    Models,
    Precision,
    Protocol,
    RequestTime,
    Settings,
    Split,
    TimeBudget,
    ValidateEvery,
    ValidateUsers,
    set_cluster,
)


@app.command(
    epilog="Examples: seqbench tune --models lrurec,sasrec --datasets ml-100k --trials 20  •  then: seqbench run "
    "--models lrurec,sasrec --datasets ml-100k --tuned --seeds 0-4"
)
def tune(
    models: Models = None,
    datasets: Datasets = None,
    trials: Annotated[int, typer.Option(help="Trials of each model on each data set.")] = 20,
    space: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="YAML file with what is searched: SETTING: [values], or SETTING: {low: …, high: …, log: true}.",
            show_default="each model's own space",
        ),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(help="sobol (evenly over the space) or tpe (where trials were good; needs Optuna)."),
    ] = "sobol",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the sampler and of every trial.", show_default="1000")
    ] = None,
    no_prune: Annotated[
        bool, typer.Option("--no-prune", help="Train trials to their end that are below the median of earlier ones.")
    ] = False,
    epochs: Epochs = None,
    validate_users: ValidateUsers = None,
    validate_every: ValidateEvery = None,
    split: Split = None,
    protocol: Protocol = "fair",
    max_len: MaxLen = None,
    request_time: RequestTime = False,
    settings: Settings = None,
    device: Device = "auto",
    jobs: Jobs = None,
    backend: Backend = "auto",
    precision: Precision = "fp32",
    executor: Executor = "process",
    address: Address = None,
    time_budget: TimeBudget = None,
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Search for better settings: the same number of trials for every model, judged by validation alone."""
    import seqbench
    from seqbench.reporting.terminal import Fitted
    from seqbench.reporting.tuning import tuning_tables
    from seqbench.signals import Stopped

    console.quiet(quiet)
    set_cluster(address, executor)
    try:
        found = seqbench.tune(
            words.names(models, "--models", "seqbench list models"),
            words.names(datasets, "--datasets", "seqbench list datasets"),
            trials=trials,
            space=space,
            sampler=sampler,
            seed=seed,
            prune=not no_prune,
            executor=executor,
            jobs=jobs,
            time_budget=words.duration(time_budget, "--time-budget"),
            **CellOptions(
                protocol=protocol,
                split=split,
                max_len=max_len,
                request_time=request_time,
                settings=words.settings(settings or [], validate_users=validate_users, validate_every=validate_every),
                epochs=epochs,
                device=device,
                backend=backend,
                precision=precision,
                results=results,
                home=home,
            ),
        )
    except KeyboardInterrupt as stop:
        console.err.print("Interrupted. Finished trials are kept; repeat the command to resume.")
        raise typer.Exit(stop.exit_code if isinstance(stop, Stopped) else 130) from None
    for dataset in dict.fromkeys(search.dataset for search in found):
        console.out.print(dataset, style="bold")
        for table in tuning_tables([search for search in found if search.dataset == dataset]):
            console.out.print()
            console.out.print(table.heading, style="italic")
            console.out.print(Fitted(table))
        console.out.print()
    console.note("Done. `seqbench run --tuned` with the same models and data sets runs what was chosen, over --seeds.")
