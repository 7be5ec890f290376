"""`seqbench prepare`: fetch, filter and index data sets."""

from pathlib import Path
from typing import Annotated, Any

import typer

from seqbench import console
from seqbench.cli.app import Home, Quiet, app, dataset_names
from seqbench.cli.options import with_options
from seqbench.data.filters import Filters
from seqbench.errors import UsageError


@app.command(
    epilog="Examples: seqbench prepare ml-100k amazon-2018:All_Beauty  •  "
    "seqbench prepare --raw my.csv --columns user=u,item=i,time=t --name mine"
)
@with_options(Filters, after="name", min_rating="all", max_users="all")
def prepare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]", help="Data sets; see `seqbench list datasets`.", autocompletion=dataset_names
        ),
    ] = None,
    raw: Annotated[
        Path | None,
        typer.Option(
            help="Read this instead of downloading: an archive, folder or file of the data set, or, with --name "
            "and without NAME, any CSV, TSV, JSON lines, Parquet or .inter file."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE=COLUMN,...",
            help="Columns of a file of yours: user, item, time, rating, position, split; by name, or by number from 1 "
            "where there is no header.",
            show_default="recognised by name",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Store it under this name.", show_default="NAME")] = None,
    users: Annotated[int | None, typer.Option(help="synthetic: number of users.", show_default="2000")] = None,
    items: Annotated[int | None, typer.Option(help="synthetic: number of items.", show_default="1000")] = None,
    length: Annotated[int | None, typer.Option(help="synthetic: mean items per user.", show_default="60")] = None,
    seed: Annotated[int | None, typer.Option(help="synthetic: random seed.", show_default="0")] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare again even if nothing changed.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing; use what was downloaded before.")] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory to do with, such as 3G; rows that do not fit go to disk meanwhile.",
            show_default="half of what is free",
        ),
    ] = None,
    home: Home = None,
    quiet: Quiet = False,
    **filters: Any,
) -> None:
    """Download, filter and index data sets; compare their counts with the published ones."""
    from seqbench import api
    from seqbench.data.catalog import is_known
    from seqbench.data.spill import parse_memory
    from seqbench.show.prepared import counts_table

    console.quiet(quiet)
    limit = None if memory is None else parse_memory(memory)
    if raw is not None and names and len(names) > 1:
        raise UsageError("--raw goes with one data set at a time.", hint="Prepare them one by one.")
    if name is not None and names and len(names) > 1:
        raise UsageError("--name goes with one data set at a time.", hint="Prepare them one by one.")
    if names and columns is not None:
        raise UsageError(
            "--columns goes with a file of yours, not with a data set of the catalogue.",
            hint="Leave out NAME, and say --name for what it is to be called.",
        )
    if not names:
        if raw is None or name is None:
            raise UsageError(
                "There is nothing to prepare: give the NAME of a data set, or --raw FILE and --name NAME.",
                hint="See `seqbench list datasets` for names.",
            )
        if is_known(name):
            raise UsageError(f"--name {name} is a data set of the catalogue.", hint="Choose another name.")
        prepared = api.prepare(
            name, home=home, raw=raw, columns=_roles(columns), force=force, offline=offline, memory=limit, **filters
        )
        console.out.print(counts_table(prepared))
        return
    given = {"users": users, "items": items, "length": length, "seed": seed}
    chosen = {key: value for key, value in given.items() if value is not None}
    for prepared in api.prepare_all(
        names,
        home=home,
        raw=raw,
        name=name,
        synthetic=chosen or None,
        force=force,
        offline=offline,
        memory=limit,
        **filters,
    ):
        console.out.print(counts_table(prepared))


def _roles(columns: str | None) -> dict[str, str]:
    """Return role → column of --columns."""
    pairs = [pair.partition("=") for pair in (columns or "").split(",") if pair.strip()]
    for role, sign, _ in pairs:
        if not sign:
            raise UsageError(f"--columns: '{role}{sign}' is not ROLE=COLUMN.", hint="--columns user=u,item=i,time=t")
    return {role.strip(): column.strip() for role, _, column in pairs}
