"""`seqbench measure`: costs of finished cells, once more."""

from pathlib import Path
from typing import Annotated, Any

import typer

from seqbench import console
from seqbench.cli import words
from seqbench.cli.app import Home, Quiet, Results, app
from seqbench.cli.selecting import Datasets, Models, Protocols, Seeds, Splits
from seqbench.execution import EXECUTORS
from seqbench.measuring.grid import MODES


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
        str | None, typer.Option(metavar="N,...", help="Histories encoded at once.", show_default="as in each run")
    ] = None,
    modes: Annotated[
        str | None, typer.Option(metavar="NAME,...", help=f"Of {', '.join(MODES)}.", show_default="as in each run")
    ] = None,
    latency_seconds: Annotated[
        float | None, typer.Option(min=0, help="Time for each point.", show_default="as in each run")
    ] = None,
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
    points: dict[str, Any] = {
        name: read
        for name, read in (
            ("lengths", lengths and words.numbers(lengths, "--lengths")),
            ("batches", batches and words.numbers(batches, "--batches")),
            ("modes", modes and words.modes(modes)),
            ("seconds", latency_seconds),
        )
        if read is not None
    }
    try:
        records = seqbench.measure(
            results,
            everything=everything,
            epochs=epochs,
            points=points,
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
