"""`seqbench measure`: costs of finished cells, once more."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli import words
from seqbench.cli.app import Home, Quiet, Results, app
from seqbench.cli.selecting import Datasets, Models, Protocols, Seeds, Splits
from seqbench.execution import EXECUTORS
from seqbench.measuring.grid import LatencyGrid


@app.command(epilog="Examples: seqbench measure  •  seqbench measure --models lrurec,sasrec --datasets ml-100k --all")
def measure(
    datasets: Datasets = None,
    models: Models = None,
    protocol: Protocols = None,
    split: Splits = None,
    seeds: Seeds = None,
    everything: Annotated[bool, typer.Option("--all", help="Quiet figures, too.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of training to time.", show_default="3")] = None,
    lengths: Annotated[
        str | None, typer.Option(metavar="N,...", help="Lengths of the histories.", show_default="as in each run")
    ] = None,
    batches: Annotated[
        str | None, typer.Option(metavar="N,...", help="Histories encoded at once.", show_default="1,32 with --lengths")
    ] = None,
    latency_seconds: Annotated[
        float, typer.Option(min=0, help="With --lengths: time for each point, after three samples.")
    ] = LatencyGrid.seconds,
    device: Annotated[
        str | None, typer.Option(help="Another one of the same kind, such as cuda:1.", show_default="that of each run")
    ] = None,
    executor: Annotated[str, typer.Option(help=f"Where cells run: {EXECUTORS.words()}.")] = "process",
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Measure noisy costs of finished cells again, from the stored weights. Accuracy stays as it is."""
    import seqbench
    from seqbench.signals import Stopped

    console.quiet(quiet)
    grid = None
    if lengths is not None:
        chosen = LatencyGrid.batches if batches is None else words.numbers(batches, "--batches")
        grid = LatencyGrid(words.numbers(lengths, "--lengths"), chosen, latency_seconds)
    elif batches is not None:
        grid = LatencyGrid(batches=words.numbers(batches, "--batches"), seconds=latency_seconds)
    try:
        records = seqbench.measure(
            results,
            everything=everything,
            epochs=epochs,
            latency=grid,
            device=device,
            executor=executor,
            home=home,
            datasets=words.split_words(datasets or ""),
            models=words.split_words(models or ""),
            protocols=words.split_words(protocol or ""),
            splits=words.split_words(split or ""),
            seeds=words.split_words(seeds or ""),
        )
    except KeyboardInterrupt as stop:
        console.err.print("Interrupted. What was measured is stored; repeat the command for the rest.")
        raise typer.Exit(stop.exit_code if isinstance(stop, Stopped) else 130) from None
    if not records:
        console.note("Nothing is noisy. --all measures quiet figures, too.")
