"""`seqbench rm`: delete stored runs."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli.app import Quiet, Results, app
from seqbench.cli.selecting import Datasets, Models, Protocols, Seeds, Splits
from seqbench.errors import SeqbenchError, UsageError


@app.command(
    "rm", epilog="Examples: seqbench rm 3f2a91c  •  seqbench rm --models lrurec --datasets ml-100k --failed --yes"
)
def remove(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY...]", help="First digits of runs' keys; see `seqbench list runs`."),
    ] = None,
    datasets: Datasets = None,
    models: Models = None,
    protocol: Protocols = None,
    split: Splits = None,
    seeds: Seeds = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only runs that failed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    results: Results = Path("results"),
    quiet: Quiet = False,
) -> None:
    """Delete stored runs, with all their files: those of these keys, or all that are chosen by the options."""
    from seqbench.reporting.runs import load_runs
    from seqbench.reporting.selection import Selection, with_keys
    from seqbench.results.store import remove_cell
    from seqbench.show.runs import runs_table

    console.quiet(quiet)
    if not keys and not any((datasets, models, protocol, split, seeds, failed)):
        raise UsageError("Which runs?", hint="Give keys, or options such as --models; see `seqbench rm --help`.")
    runs, _ = load_runs(results)
    if not runs:
        raise SeqbenchError(f"There are no results in {results}.", hint="Run `seqbench run` first.")
    selection = Selection.parse(datasets=datasets, models=models, protocols=protocol, splits=split, seeds=seeds)
    chosen = selection.apply(with_keys(runs, keys or []))
    if failed:
        chosen = [run for run in chosen if run.record.status == "failed"]
    if not chosen:
        raise SeqbenchError("No stored run is like that.", hint="See `seqbench list runs`.")
    if not yes:
        console.err.print(runs_table(chosen, []))
        typer.confirm(f"Delete {len(chosen)} runs with all their files?", abort=True, err=True)
    for run in chosen:
        assert run.folder is not None
        remove_cell(results, run.folder)
    console.note(f"Deleted {len(chosen)} runs.")
