"""`seqbench env`: this machine, and what is installed on it."""

from pathlib import Path

from seqbench import console, paths
from seqbench.cli.app import Home, Results, app


@app.command()
def env(results: Results = Path("results"), home: Home = None) -> None:
    """This machine, the installed versions, the folders, and the backends with the reason for each."""
    from seqbench.show.environment import environment_table

    console.out.print(environment_table(paths.home(home), results))
