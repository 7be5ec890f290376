"""The application that every command registers with, and the options that several commands share."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from seqbench import __version__, console
from seqbench.protocol import PROTOCOLS

app = typer.Typer(
    help="Accuracy and cost of efficient sequential recommenders, measured side by side.",
    epilog="Start with: seqbench run --models lrurec,sasrec && seqbench report",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
listing = typer.Typer(help="List models, data sets or finished runs.", no_args_is_help=True)
app.add_typer(listing, name="list")

Home = Annotated[
    Path | None,
    typer.Option(
        help="Folder for downloads and prepared data sets; default: the user's cache folder.",
        envvar="SEQBENCH_HOME",
        show_default=False,
    ),
]
Results = Annotated[
    Path, typer.Option(help="Folder of the results store.", envvar="SEQBENCH_RESULTS", callback=Path.expanduser)
]
Stores = Annotated[
    Path,
    typer.Option(
        help="Folder of the results store, or several separated by commas.",
        envvar="SEQBENCH_RESULTS",
        callback=Path.expanduser,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"seqbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what completes the last of comma-separated names."""

    def complete(incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(begun)]

    return complete


def model_names() -> list[str]:
    """Return the names of the registered models, to complete what is typed."""
    from seqbench.models import MODELS

    return list(MODELS)


def protocol_names() -> list[str]:
    """Return the names of the protocols, to complete what is typed."""
    return list(PROTOCOLS)


def dataset_names() -> list[str]:
    """Return the names in the catalogue, to complete what is typed."""
    from seqbench.data.catalog import load_catalog

    return list(load_catalog())
