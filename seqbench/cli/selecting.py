"""The options that choose among stored runs."""

from typing import Annotated

import typer

Datasets = Annotated[str | None, typer.Option(help="Only these data sets, comma-separated.", show_default="all")]
Models = Annotated[str | None, typer.Option(help="Only these models, comma-separated.", show_default="all")]
Protocols = Annotated[str | None, typer.Option(help="Only these protocols, comma-separated.", show_default="all")]
Splits = Annotated[str | None, typer.Option(help="Only these splits, comma-separated.", show_default="all")]
Seeds = Annotated[str | None, typer.Option(help="Only these seeds, comma-separated.", show_default="all")]
