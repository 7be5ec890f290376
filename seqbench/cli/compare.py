"""`seqbench compare`: two models, and whether their difference is more than chance."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console, paths
from seqbench.cli.app import Home, Stores, app
from seqbench.cli.selecting import Datasets, Protocols, Seeds, Splits


@app.command(epilog="Examples: seqbench compare lrurec sasrec  •  seqbench compare lrurec sasrec --metric ndcg@10,mrr")
def compare(
    first: Annotated[str, typer.Argument(help='A model, or one of its configurations: "lrurec (dropout=0.5)".')],
    second: Annotated[str, typer.Argument(help="The model to compare it with.")],
    metric: Annotated[str, typer.Option(help="Comma-separated; see `seqbench report --help`.")] = "hr@10,ndcg@10",
    datasets: Datasets = None,
    protocol: Protocols = None,
    split: Splits = None,
    seeds: Seeds = None,
    results: Stores = Path("results"),
    home: Home = None,
) -> None:
    """Compare two models over the same users and all seeds: difference, interval, p-value, users better and worse.

    A second table says for which users: by length of the history, and by popularity and age of the target.
    """
    from seqbench.evaluation.metrics import parse
    from seqbench.reporting.comparison import contests, group_contests
    from seqbench.reporting.runs import load_runs
    from seqbench.reporting.selection import Selection
    from seqbench.show.contests import contests_table, groups_table

    runs, errors = load_runs(*paths.stores(results))
    for error in errors:
        console.warn(error.message)
    selection = Selection.parse(datasets=datasets, protocols=protocol, splits=split, seeds=seeds)
    measures = [parse(word) for word in metric.split(",")]
    chosen = selection.apply(runs)
    console.out.print(contests_table(first, second, contests(chosen, first, second, measures)))
    by_group, missing = group_contests(chosen, first, second, measures[0], paths.home(home))
    if by_group:
        console.out.print()
        console.out.print(groups_table(first, second, by_group))
    for reason in missing:
        console.note(f"Where they differ is not known: {reason.message} {reason.hint or ''}")
