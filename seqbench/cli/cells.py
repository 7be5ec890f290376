"""The options of commands that run cells: what is run, and where."""

import os
from typing import Annotated

import typer

from seqbench.cli.app import completing, dataset_names, model_names, protocol_names
from seqbench.errors import UsageError
from seqbench.execution import EXECUTORS
from seqbench.protocol import PROTOCOLS

Models = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated models (see `seqbench list models`), or path/to/file.py:ClassName for one of yours.",
        show_default="all",
        autocompletion=completing(model_names),
    ),
]
Datasets = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated data sets.",
        show_default="all that are prepared",
        autocompletion=completing(dataset_names),
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs at most.", show_default="per model")]
ValidateUsers = Annotated[
    int | None,
    typer.Option(min=1, help="Choose the epoch by a sample of users. The test is of all.", show_default="all users"),
]
ValidateEvery = Annotated[int | None, typer.Option(min=1, help="Epochs between validations.", show_default="1")]
Split = Annotated[
    str | None,
    typer.Option(
        help="leave-one-out, temporal (one point in time for all users), or given (as the data's authors split).",
        show_default="leave-one-out; given where there is one",
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        help="How models are trained and judged: "
        + "; ".join(f"{name} ({each.summary()})" for name, each in PROTOCOLS.items())
        + ".",
        autocompletion=protocol_names,
    ),
]
MaxLen = Annotated[
    int | None, typer.Option(min=1, help="Most recent items that a model sees.", show_default="per data set")
]
RequestTime = Annotated[
    bool,
    typer.Option(
        "--request-time",
        help="Let models that use times know when the next item is asked for: the time of the target.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[MODEL.]FIELD=VALUE",
        help="Change a setting of one model, or of all that have it; may be repeated.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda (a cell on each GPU) or cuda:N.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Cells that run at a time.", show_default="one on each GPU, one on a CPU")
]
Backend = Annotated[
    str,
    typer.Option(help="Backend of the scans and the loss, or auto; see `seqbench env`.", envvar="SEQBENCH_BACKEND"),
]
Precision = Annotated[
    str, typer.Option(help="fp32, tf32 (NVIDIA GPUs) or bf16: of the matrix products in the encoder.")
]
Executor = Annotated[
    str,
    typer.Option(
        help=f"Where cells run: {EXECUTORS.words()} (process: each in its own; inline: in this very one; ray: on a "
        "cluster)."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="The Ray cluster: host:port, or auto for the one of this machine.", envvar="RAY_ADDRESS"),
]
TimeBudget = Annotated[
    str | None,
    typer.Option(metavar="8h", help="Begin no cell or epoch that would end later. Repeat the command to go on."),
]


def set_cluster(address: str | None, executor: str) -> None:
    """Name the cluster where Ray itself looks for it.

    Raises:
        UsageError: it is given, and Ray is not to run anything.
    """
    if address not in (None, os.environ.get("RAY_ADDRESS")) and executor != "ray":
        raise UsageError("--address is for --executor ray.", hint="Leave it out, or add --executor ray.")
    if address is not None:
        os.environ["RAY_ADDRESS"] = address
