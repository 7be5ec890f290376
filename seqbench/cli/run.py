"""`seqbench run`: train, evaluate and measure."""

import os
from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.api import PlanOptions
from seqbench.cli import words
from seqbench.cli.app import Home, Quiet, Results, app, completing, dataset_names, model_names, protocol_names
from seqbench.errors import UsageError
from seqbench.execution import EXECUTORS
from seqbench.measuring.grid import MODES, LatencyGrid
from seqbench.protocol import PROTOCOLS


def _joined(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _given(**settings: int | None) -> dict[str, int]:
    """Return the settings that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


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
            autocompletion=completing(model_names),
        ),
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated data sets.",
            show_default="all that are prepared",
            autocompletion=completing(dataset_names),
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds, or ranges such as 0-4; each is a run.")] = "0",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most.", show_default="per model")] = None,
    validate_users: Annotated[
        int | None,
        typer.Option(
            min=1, help="Choose the epoch by a sample of users. The test is of all.", show_default="all users"
        ),
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(min=1, help="Epochs between validations.", show_default="1")
    ] = None,
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
            + ".",
            autocompletion=protocol_names,
        ),
    ] = "fair",
    max_len: Annotated[
        int | None,
        typer.Option(min=1, help="Most recent items that a model sees.", show_default="per data set"),
    ] = None,
    request_time: Annotated[
        bool,
        typer.Option(
            "--request-time",
            help="Let models that use times know when the next item is asked for: the time of the target.",
        ),
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper: what a model's paper sets for each data set, where it says so.",
            show_default="each model's defaults on all data sets",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[MODEL.]FIELD=VALUE",
            help="Change a setting of one model, or of all that have it; may be repeated.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda (a cell on each GPU) or cuda:N.")] = "auto",
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Cells that run at a time.", show_default="one on each GPU, one on a CPU"),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N parts of the cells, as for machines that share no locks."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help="Backend of the scans and the loss, or auto; see `seqbench env`.", envvar="SEQBENCH_BACKEND"),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, tf32 (NVIDIA GPUs) or bf16: of the matrix products in the encoder.")
    ] = "fp32",
    executor: Annotated[
        str,
        typer.Option(
            help=f"Where cells run: {EXECUTORS.words()} (process: each in its own; inline: in this very one; ray: on a "
            "cluster)."
        ),
    ] = "process",
    address: Annotated[
        str | None,
        typer.Option(help="The Ray cluster: host:port, or auto for the one of this machine.", envvar="RAY_ADDRESS"),
    ] = None,
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
    time_budget: Annotated[
        str | None,
        typer.Option(metavar="8h", help="Begin no cell or epoch that would end later. Repeat the command to go on."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be run.")] = False,
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate and measure: one cell for each data set, model and seed. Finished cells are skipped."""
    import seqbench
    from seqbench.execution.schedule import failed_summary
    from seqbench.show.plan import plan_table
    from seqbench.signals import Stopped

    console.quiet(quiet)
    if address not in (None, os.environ.get("RAY_ADDRESS")) and executor != "ray":
        raise UsageError("--address is for --executor ray.", hint="Leave it out, or add --executor ray.")
    if address is not None:
        os.environ["RAY_ADDRESS"] = address  # which is where Ray itself looks
    budget = words.duration(time_budget, "--time-budget")
    options = PlanOptions(
        seeds=words.seeds(seeds),
        protocol=protocol,
        split=split,
        max_len=max_len,
        request_time=request_time,
        preset=preset,
        settings=_given(validate_users=validate_users, validate_every=validate_every) | words.settings(settings or []),
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
