"""`seqbench data`: statistics of a prepared data set."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console, paths
from seqbench.cli.app import Home, app, dataset_names


@app.command("data", epilog="Examples: seqbench data ml-100k  •  seqbench data ml-100k --plot lengths.png")
def describe_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A prepared data set.", autocompletion=dataset_names)],
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw lengths and popularity to this file (.png, .svg, .pdf).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
    home: Home = None,
) -> None:
    """Statistics of a prepared data set: lengths, popularity, repeats, times, and what leave-one-out gives away."""
    import dataclasses
    from json import dumps

    from seqbench.data.describe import describe
    from seqbench.data.prepared import open_prepared
    from seqbench.show import dataset_plot, plotting
    from seqbench.show.prepared import description_table

    if plot is not None:
        plotting.check(plot)
    prepared = open_prepared(name, paths.home(home))
    figures = describe(prepared)
    if json:
        typer.echo(dumps(dataclasses.asdict(figures), indent=2))
    else:
        console.out.print(description_table(prepared, figures))
    if plot is not None:
        dataset_plot.plot(prepared, plot)
        console.note(f"Drawn to {plot}.")
