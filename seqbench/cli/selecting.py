"""The options that choose among stored runs."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from seqbench.cli.app import completing, dataset_names, model_names, protocol_names


def _chooses(what: str, names: Callable[[], list[str]]) -> Any:
    return typer.Option(
        help=f"Only these {what}, comma-separated.", show_default="all", autocompletion=completing(names)
    )


Datasets = Annotated[str | None, _chooses("data sets", dataset_names)]
Models = Annotated[str | None, _chooses("models", model_names)]
Protocols = Annotated[str | None, _chooses("protocols", protocol_names)]
Splits = Annotated[str | None, typer.Option(help="Only these splits, comma-separated.", show_default="all")]
Seeds = Annotated[str | None, typer.Option(help="Only these seeds, comma-separated.", show_default="all")]
