"""`seqbench prepare`: fetch, filter and index data sets."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console, paths
from seqbench.cli.app import Home, Quiet, app, dataset_names
from seqbench.errors import UsageError


@app.command(
    epilog="Examples: seqbench prepare ml-100k amazon-2018:All_Beauty  •  "
    "seqbench prepare --raw my.csv --columns user=u,item=i,time=t --name mine"
)
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
    min_user: Annotated[
        int | None,
        typer.Option(help="Keep users with at least this many interactions.", show_default="per data set"),
    ] = None,
    min_item: Annotated[
        int | None,
        typer.Option(help="Keep items with at least this many interactions.", show_default="per data set"),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="How the two are applied: k-core (until nothing changes), joint-once or item-then-user-once.",
            show_default="per data set",
        ),
    ] = None,
    min_rating: Annotated[
        float | None, typer.Option(help="Keep interactions with at least this rating.", show_default="all")
    ] = None,
    duplicates: Annotated[
        str | None,
        typer.Option(
            help="Of several interactions of a user with an item keep all (none is dropped), the first or the last: "
            "none, first, last.",
            show_default="per data set",
        ),
    ] = None,
    repeats: Annotated[
        str | None,
        typer.Option(help="Of an item right after itself: keep or drop.", show_default="per data set"),
    ] = None,
    ties: Annotated[
        str | None,
        typer.Option(help="Order of equal timestamps: file (as in the source) or item.", show_default="per data set"),
    ] = None,
    max_users: Annotated[
        int | None, typer.Option(help="A sample of this many users, for a quick look.", show_default="all")
    ] = None,
    users: Annotated[int | None, typer.Option(help="synthetic: number of users.", show_default="2000")] = None,
    items: Annotated[int | None, typer.Option(help="synthetic: number of items.", show_default="1000")] = None,
    length: Annotated[int | None, typer.Option(help="synthetic: mean items per user.", show_default="60")] = None,
    seed: Annotated[int | None, typer.Option(help="synthetic: random seed.", show_default="0")] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare again even if nothing changed.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing; use what was downloaded before.")] = False,
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Download, filter and index data sets; compare their counts with the published ones."""
    from seqbench.data.prepare import Choices, prepare_all, prepare_own
    from seqbench.data.prepared import counts_table
    from seqbench.data.synthetic import SyntheticOptions

    console.quiet(quiet)
    if raw is not None and names and len(names) > 1:
        raise UsageError("--raw goes with one data set at a time.", hint="Prepare them one by one.")
    if name is not None and names and len(names) > 1:
        raise UsageError("--name goes with one data set at a time.", hint="Prepare them one by one.")
    if names and columns is not None:
        raise UsageError(
            "--columns goes with a file of yours, not with a data set of the catalogue.",
            hint="Leave out NAME, and say --name for what it is to be called.",
        )
    given = {"users": users, "items": items, "length": length, "seed": seed}
    chosen = {key: value for key, value in given.items() if value is not None}
    choices = Choices(min_user, min_item, rule, min_rating, duplicates, repeats, ties, max_users)
    if not names:
        if raw is None or name is None:
            raise UsageError(
                "There is nothing to prepare: give the NAME of a data set, or --raw FILE and --name NAME.",
                hint="See `seqbench list datasets` for names.",
            )
        roles = _roles(columns)
        console.out.print(
            counts_table(prepare_own(name, raw, home=paths.home(home), columns=roles, choices=choices, force=force))
        )
        return
    for prepared in prepare_all(
        names,
        home=paths.home(home),
        raw=raw,
        choices=choices,
        name=name,
        synthetic=SyntheticOptions(**chosen) if chosen else None,
        force=force,
        offline=offline,
    ):
        console.out.print(counts_table(prepared))


def _roles(columns: str | None) -> dict[str, str]:
    """Role → column of --columns."""
    pairs = [pair.partition("=") for pair in (columns or "").split(",") if pair.strip()]
    for role, sign, column in pairs:
        if not sign or not column.strip():
            raise UsageError(f"--columns: '{role}{sign}' is not ROLE=COLUMN.", hint="--columns user=u,item=i,time=t")
    return {role.strip(): column.strip() for role, _, column in pairs}
