"""`seqbench run`: train, evaluate and measure."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.api import PlanOptions
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
from seqbench.measuring.grid import MODES, LatencyGrid


def _joined(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@app.command(
    epilog="Examples: seqbench run --models lrurec,sasrec --seeds 0,1  •  "
    "seqbench run --models lrurec --datasets ml-100k --set lrurec.dropout=0.5"
)
def run(
    models: Models = None,
    datasets: Datasets = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds, or ranges such as 0-4; each is a run.")] = "0",
    epochs: Epochs = None,
    validate_users: ValidateUsers = None,
    validate_every: ValidateEvery = None,
    split: Split = None,
    protocol: Protocol = "fair",
    max_len: MaxLen = None,
    request_time: RequestTime = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper: what a model's paper sets for each data set, where it says so.",
            show_default="each model's defaults on all data sets",
        ),
    ] = None,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="With the settings that `seqbench tune` has chosen for each data set.")
    ] = False,
    settings: Settings = None,
    device: Device = "auto",
    jobs: Jobs = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N parts of the cells, as for machines that share no locks."),
    ] = None,
    backend: Backend = "auto",
    precision: Precision = "fp32",
    executor: Executor = "process",
    address: Address = None,
    lengths: Annotated[
        str, typer.Option(metavar="N,...", help="Lengths of the histories whose latency is measured.")
    ] = _joined(LatencyGrid.lengths),
    batches: Annotated[str, typer.Option(metavar="N,...", help="How many histories are encoded at once.")] = _joined(
        LatencyGrid.batches
    ),
    modes: Annotated[
        str, typer.Option(metavar="NAME,...", help=f"What is timed: {', '.join(MODES)} (of models that have it).")
    ] = ",".join(LatencyGrid.modes),
    latency_seconds: Annotated[
        float, typer.Option(min=0, help="Time for each point of latency, after three samples.")
    ] = LatencyGrid.seconds,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Measure no latency.")] = False,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="Do not keep the trained weights.")] = False,
    time_budget: TimeBudget = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be run.")] = False,
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate and measure: one cell for each data set, model and seed. Finished cells are skipped."""
    import seqbench
    from seqbench.distributed import first
    from seqbench.execution.schedule import failed_summary
    from seqbench.show.plan import plan_table
    from seqbench.signals import Stopped

    console.quiet(quiet)
    set_cluster(address, executor)
    budget = words.duration(time_budget, "--time-budget")
    options = PlanOptions(
        seeds=words.seeds(seeds),
        protocol=protocol,
        split=split,
        max_len=max_len,
        request_time=request_time,
        preset=preset,
        tuned=tuned,
        settings=words.settings(settings or [], validate_users=validate_users, validate_every=validate_every),
        epochs=epochs,
        device=device,
        backend=backend,
        precision=precision,
        shard=words.shard(shard),
        force=force,
        results=results,
        home=home,
    )
    chosen = (
        words.names(models, "--models", "seqbench list models"),
        words.names(datasets, "--datasets", "seqbench list datasets"),
    )
    if dry_run:
        if first():
            console.out.print(plan_table(seqbench.plan(*chosen, **options)))
        return
    grid = LatencyGrid(
        lengths=() if no_latency else words.numbers(lengths, "--lengths"),
        batches=words.numbers(batches, "--batches"),
        seconds=latency_seconds,
        modes=words.modes(modes),
    )
    try:
        records = seqbench.run(
            *chosen,
            executor=executor,
            jobs=jobs,
            keep_weights=not no_weights,
            latency=grid,
            time_budget=budget,
            **options,
        )
    except KeyboardInterrupt as stop:
        console.err.print("Interrupted. Finished runs are kept; repeat the command to resume.")
        raise typer.Exit(stop.exit_code if isinstance(stop, Stopped) else 130) from None
    if failed := [record for record in records if record.failure]:
        raise failed_summary(failed, len(records))
    if records:
        console.note("Done. `seqbench report` shows the tables.")
