"""`seqbench kernels`: time the operators' backends."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli.app import Quiet, app
from seqbench.ops.backends import BACKENDS
from seqbench.speed.choices import WORKLOADS, Dtype


@app.command(
    epilog="Examples: seqbench kernels --operators linear_scan --shapes 128x200x128,1x16384x128  •  "
    "seqbench kernels --device cuda --dtype bfloat16 --plot speed.svg --json speed.json"
)
def kernels(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    operators: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated: {WORKLOADS.words()}.", show_default="all"),
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: BxTxD for the scans, BxTxDxN for selective_scan, BxTxHxKxV for matrix_scan, "
            "NxDxV for the loss.",
            show_default="per operator",
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated: {BACKENDS.words()}, and peers.", show_default="all but reference"),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the tensors.")] = "float32",
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
    from seqbench.device import resolve
    from seqbench.files import write_json
    from seqbench.show import plotting
    from seqbench.speed import benchmark, plots, request, summary, table

    console.quiet(quiet)
    wanted = request.parse(str(resolve(device)), dtype, operators, shapes, backends, seconds)
    if plot is not None:
        plotting.check(plot)
    for name, measured in zip(wanted.shapes, benchmark.run(wanted), strict=True):
        for block in table.tables(measured, name):
            console.out.print(block)
    for block in table.legend(measured):
        console.out.print(block)
    if json is not None:
        write_json(json, summary.document(measured))
    if plot is not None:
        plots.draw(measured, plot)
