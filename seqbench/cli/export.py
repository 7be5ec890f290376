"""`seqbench export`: a trained model as files that run without seqbench."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli.app import Quiet, Results, app
from seqbench.cli.recommend import ModelFile, Run


@app.command(
    epilog="Examples: seqbench export ml-100k/lrurec --output lrurec  •  "
    "seqbench export ml-100k/sasrec --format onnx --output sasrec"
)
def export(
    run: Run,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder, made if need be.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="torch-export (encoder, step and scores as programs of torch.export), onnx, or safetensors (weights).",
        ),
    ] = "torch-export",
    model: ModelFile = None,
    results: Results = Path("results"),
    quiet: Quiet = False,
) -> None:
    """Write a trained model as files that run without seqbench, checked against the model."""
    from seqbench.api import load
    from seqbench.inference.export import export as write

    console.quiet(quiet)
    trained = load(run, model=model, results=results)
    for note in write(trained, format, output):
        console.warn(note)
    console.note(f"Written to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}.")
