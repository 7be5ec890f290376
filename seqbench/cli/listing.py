"""`seqbench list`: models, data sets, and finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console, paths
from seqbench.cli.app import Home, Stores, dataset_names, listing
from seqbench.cli.selecting import Datasets, Models, Protocols, Seeds, Splits
from seqbench.errors import SeqbenchError


@listing.command("models")
def list_models(
    name: Annotated[
        str | None, typer.Argument(help="Show the settings of this model; a name, or path/to/file.py:ClassName.")
    ] = None,
) -> None:
    """Models, or the settings of one with their defaults."""
    from seqbench.show.models import models_table, settings_table

    console.out.print(models_table() if name is None else settings_table(name))


@listing.command("datasets")
def list_datasets(
    name: Annotated[
        str | None, typer.Argument(help="Show filters, sources and licence of this one.", autocompletion=dataset_names)
    ] = None,
    home: Home = None,
) -> None:
    """Data sets and whether they are prepared, or what is known of one."""
    from seqbench.show.datasets import dataset_table, datasets_table

    root = paths.home(home)
    console.out.print(datasets_table(root) if name is None else dataset_table(name, root))


@listing.command("runs")
def list_runs(
    datasets: Datasets = None,
    models: Models = None,
    protocol: Protocols = None,
    split: Splits = None,
    seeds: Seeds = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, with the folder of every run.")] = False,
    results: Stores = Path("results"),
) -> None:
    """List stored results, one line per cell, with what chose the epoch (validation) and what counts (test)."""
    from json import dumps

    from seqbench.reporting.runs import load_runs
    from seqbench.reporting.selection import Selection
    from seqbench.show.runs import runs_table, runs_values

    runs, errors = load_runs(*paths.stores(results))
    if not runs and not errors:
        raise SeqbenchError(f"There are no results in {results}.", hint="Run `seqbench run` first.")
    selection = Selection.parse(datasets=datasets, models=models, protocols=protocol, splits=split, seeds=seeds)
    chosen = selection.apply(runs)
    if json:
        for error in errors:
            console.warn(error.message)
        typer.echo(dumps(runs_values(chosen), indent=2))
    else:
        console.out.print(runs_table(chosen, errors))
