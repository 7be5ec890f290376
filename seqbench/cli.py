"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import __version__, console, paths
from seqbench.errors import SeqbenchError, UsageError
from seqbench.models import MODELS

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


def _dataset_names() -> list[str]:
    from seqbench.data.catalog import load_catalog

    return list(load_catalog())


@app.command(
    epilog="Examples: seqbench prepare ml-100k amazon-2018:All_Beauty  •  "
    "seqbench prepare --raw my.csv --columns user=u,item=i,time=t --name mine"
)
def prepare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]", help="Data sets; see `seqbench list datasets`.", autocompletion=_dataset_names
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


@app.command(
    epilog="Examples: seqbench run --models lrurec,sasrec --seeds 0,1  •  "
    "seqbench run --models lrurec --datasets ml-100k --set lrurec.dropout=0.5"
)
def run(
    models: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated models (see `seqbench list models`), or path/to/file.py:ClassName for one of yours.",
            show_default="all",
        ),
    ] = None,
    datasets: Annotated[
        str | None, typer.Option(help="Comma-separated data sets.", show_default="all that are prepared")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds; each is a run of its own.")] = "0",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most.", show_default="per model")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="leave-one-out, temporal (one point in time for all users), or given (as the data's authors split).",
            show_default="leave-one-out; given where there is one",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="fair (items the user has met cannot be recommended, NDCG@10 chooses the epoch), lrurec (windows, "
            "removed items and choice by Recall@10 as in its code) or recbole (nothing is removed)."
        ),
    ] = "fair",
    max_len: Annotated[
        int | None,
        typer.Option(min=1, help="Most recent items that a model sees.", show_default="per data set"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper: what a model's paper sets for each data set, where it says so.",
            show_default="each model's defaults on all data sets",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODEL.FIELD=VALUE", help="Change a model's setting; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    backend: Annotated[
        str,
        typer.Option(help="Backend of the scans and the loss, or auto; see `seqbench env`.", envvar="SEQBENCH_BACKEND"),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be run.")] = False,
    results: Results = Path("results"),
    home: Home = None,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate and measure: one cell for each data set, model and seed. Finished cells are skipped."""
    from seqbench import plan
    from seqbench.data.chosen import datasets_of_run
    from seqbench.run import check_writable, failed_summary, run_cells

    console.quiet(quiet)
    names = plan.parse_models(models)
    numbers = plan.parse_seeds(seeds)
    overrides = plan.parse_overrides(settings or [], names)
    root = paths.home(home)
    if not dry_run:
        check_writable(results)
    cells = []
    target = plan.resolve_device(device)
    for prepared in datasets_of_run(plan.parse_datasets(datasets), root, dry_run=dry_run):
        chosen_split = split or prepared.splits[0]
        conditions = plan.protocol(protocol, split=chosen_split, max_len=max_len or prepared.max_len)
        prepared.check_split(chosen_split)
        definitions = plan.define(
            prepared,
            names,
            numbers,
            protocol=conditions,
            preset=preset,
            overrides=overrides,
            epochs=epochs,
            device=target,
            backend=backend,
        )
        cells += [plan.look_up(definition, results, force=force) for definition in definitions]
    if dry_run:
        console.out.print(plan.plan_table(cells, results))
        return
    try:
        failures = run_cells(cells, models=names, home=root, results=results, device=target)
    except KeyboardInterrupt:
        console.err.print("Interrupted. Finished runs are kept; repeat the command to resume.")
        raise typer.Exit(130) from None
    if failures:
        raise failed_summary(failures, len(cells))
    console.note("Done. `seqbench report` shows the tables.")


@app.command(epilog="Examples: seqbench report  •  seqbench report --latex --metric ndcg@10,hr@10 --output table.tex")
def report(
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables (booktabs).")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown tables.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One line per figure.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, with the figure of every seed.")] = False,
    metric: Annotated[str, typer.Option(help="Comma-separated: hr, ndcg, mrr at 5, 10, 20.")] = "hr@10,ndcg@10,mrr@10",
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Write to this file instead of stdout.")] = None,
    results: Results = Path("results"),
) -> None:
    """Tables of accuracy and cost from the stored results."""
    from seqbench.report.data import render_csv, render_json
    from seqbench.report.latex import render_latex
    from seqbench.report.markdown import render_markdown
    from seqbench.report.tables import build_report
    from seqbench.report.terminal import render_terminal
    from seqbench.results import load_records

    chosen = {"--latex": latex, "--markdown": markdown, "--csv": csv, "--json": json}
    if sum(chosen.values()) > 1:
        raise UsageError("Choose one format.", hint="One of " + ", ".join(chosen) + ".")
    records, errors = load_records(results)
    for error in errors:
        console.warn(error.message)
    if not records and errors:
        raise errors[0]
    if not records:
        raise SeqbenchError(f"There are no results in {results}.", hint="Run `seqbench run` first.")
    tables = build_report(records, [word.strip() for word in metric.split(",")], list(MODELS))
    render = next(
        (
            function
            for wanted, function in (
                (latex, render_latex),
                (markdown, render_markdown),
                (csv, render_csv),
                (json, render_json),
            )
            if wanted
        ),
        None,
    )
    if render is None and output is None:
        for block in render_terminal(tables):
            console.out.print(block)
    else:
        text = render(tables) if render else _as_text(render_terminal(tables))
        _write(text, output)
    if errors:
        raise SeqbenchError(f"{len(errors)} records could not be used; see above.", hint=errors[0].hint)


@app.command(
    epilog="Examples: seqbench kernels --operators linear_scan --shapes 128x200x128,1x16384x128  •  "
    "seqbench kernels --device cuda --dtype bfloat16 --plot speed.svg --json speed.json"
)
def kernels(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    operators: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: linear_scan, linear_scan_complex, selective_scan, rg_lru, linear_cross_entropy.",
            show_default="all",
        ),
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: BxTxD for the scans, BxTxDxN for selective_scan, NxDxV for the loss.",
            show_default="per operator",
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(help="Comma-separated backends and peers.", show_default="all but reference"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    seconds: Annotated[
        float, typer.Option(min=0, help="For each backend, shape and pass; five rounds at least.")
    ] = 0.5,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw the ratios to this .png, .svg or .pdf (matplotlib).")
    ] = None,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Write everything to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Time the operators' backends, and peers if installed, next to a copy of as many bytes; check results first."""
    from seqbench.files import write_json
    from seqbench.plan import resolve_device
    from seqbench.speed import benchmark, plots, request, summary, table

    console.quiet(quiet)
    wanted = request.parse(resolve_device(device), dtype, operators, shapes, backends, seconds)
    if plot is not None:
        plots.check(plot)
    for name, measured in zip(wanted.shapes, benchmark.run(wanted), strict=True):
        for block in table.tables(measured, name):
            console.out.print(block)
    for block in table.legend(measured):
        console.out.print(block)
    if json is not None:
        write_json(json, summary.document(measured))
    if plot is not None:
        plots.draw(measured, plot)


@listing.command("models")
def list_models(
    name: Annotated[
        str | None, typer.Argument(help="Show the settings of this model; a name, or path/to/file.py:ClassName.")
    ] = None,
) -> None:
    """Models, or the settings of one with their defaults."""
    from seqbench.listing import models_table, settings_table

    console.out.print(models_table() if name is None else settings_table(name))


@app.command("data", epilog="Examples: seqbench data ml-100k  •  seqbench data ml-100k --plot lengths.png")
def describe_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A prepared data set.", autocompletion=_dataset_names)],
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw lengths and popularity to this file (.png, .svg, .pdf).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
    home: Home = None,
) -> None:
    """Statistics of a prepared data set: lengths, popularity, repeats, times, and what leave-one-out gives away."""
    import dataclasses
    from json import dumps

    from seqbench.data import describe
    from seqbench.data.prepared import open_prepared

    prepared = open_prepared(name, paths.home(home))
    figures = describe.describe(prepared)
    if json:
        typer.echo(dumps(dataclasses.asdict(figures), indent=2))
    else:
        console.out.print(describe.table(prepared, figures))
    if plot is not None:
        describe.plot(prepared, plot)
        console.note(f"Drawn to {plot}.")


@listing.command("datasets")
def list_datasets(
    name: Annotated[
        str | None, typer.Argument(help="Show filters, sources and licence of this one.", autocompletion=_dataset_names)
    ] = None,
    home: Home = None,
) -> None:
    """Data sets and whether they are prepared, or what is known of one."""
    from seqbench.listing import dataset_table, datasets_table

    root = paths.home(home)
    console.out.print(datasets_table(root) if name is None else dataset_table(name, root))


@listing.command("runs")
def list_runs(results: Results = Path("results")) -> None:
    """Stored results, one line per cell."""
    from seqbench.report.terminal import runs_table
    from seqbench.results import load_records

    records, errors = load_records(results)
    if not records and not errors:
        raise SeqbenchError(f"There are no results in {results}.", hint="Run `seqbench run` first.")
    console.out.print(runs_table(records, errors))


@app.command()
def env(results: Results = Path("results"), home: Home = None) -> None:
    """This machine, the installed versions, the folders, and the backends with the reason for each."""
    from seqbench.listing import environment_table

    console.out.print(environment_table(paths.home(home), results))


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    from seqbench.files import replacing

    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _as_text(blocks: list) -> str:
    from io import StringIO

    from rich.console import Console

    plain = Console(file=StringIO(), width=120, highlight=False)
    for block in blocks:
        plain.print(block)
    return plain.file.getvalue()  # type: ignore[attr-defined]
