"""`seqbench bench`: costs of models with random weights."""

from pathlib import Path
from typing import Annotated

import typer

from seqbench import console
from seqbench.cli import words
from seqbench.cli.app import Quiet, app
from seqbench.errors import UsageError

QUANTITIES = "latency, throughput, memory, training, energy or size"


@app.command(
    epilog="Examples: seqbench bench latency --models lrurec,sasrec --items 2000000 --lengths 100,1000 "
    "--baseline sasrec  •  seqbench bench throughput --models lrurec,sasrec --bound-ms 20"
)
def bench(
    quantity: Annotated[str, typer.Argument(metavar="QUANTITY", help=f"{QUANTITIES}.")],
    models: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated models, or path/to/file.py:ClassName for one of yours.",
            show_default="all that are trained by gradient",
        ),
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="Size of the catalogue.")] = 10_000,
    lengths: Annotated[str, typer.Option(metavar="N,...", help="Lengths of the histories.")] = "64,256,1024",
    batches: Annotated[
        str, typer.Option(metavar="N,...", help="Histories at once; for throughput the largest counts.")
    ] = "1,32",
    baseline: Annotated[
        str | None, typer.Option(help="Model whose times the others are divided by.", show_default="none")
    ] = None,
    bound_ms: Annotated[
        float, typer.Option(min=0.001, help="throughput: 99 % of the users wait no longer, in ms.")
    ] = 50.0,
    seconds: Annotated[float, typer.Option(min=0, help="For each model and point; five rounds at least.")] = 0.3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, tf32 (NVIDIA GPUs) or bf16: of the matrix products in the encoder.")
    ] = "fp32",
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Write everything to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure latency, throughput, memory, training, energy or size of models with random weights, without data."""
    from seqbench.device import resolve
    from seqbench.files import write_json
    from seqbench.measuring import bench as measuring
    from seqbench.measuring.sharing import sharing
    from seqbench.models import find_model, model_names
    from seqbench.models.base import SequenceModel
    from seqbench.precision import check
    from seqbench.show.bench import document, figures_table

    console.quiet(quiet)
    chosen = words.names(models, "--models", "seqbench list models")
    entries = [find_model(reference) for reference in chosen or model_names()]
    trained = {each.name: each.reference for each in entries if issubclass(each.load(), SequenceModel)}
    if chosen and (counting := [each.name for each in entries if each.name not in trained]):
        raise UsageError(
            f"{', '.join(counting)}: a model that counts has no weights to draw at random.",
            hint="See the column of parameters in `seqbench list models`.",
        )
    if baseline is not None and baseline not in trained:
        raise UsageError(
            f"--baseline {baseline} is not among the models: {', '.join(trained)}.", hint="Name it in --models, too."
        )
    target = resolve(device)
    check(precision, target)
    request = measuring.Request(
        models=trained,
        device=target,
        items=items,
        lengths=words.numbers(lengths, "--lengths"),
        batches=words.numbers(batches, "--batches"),
        baseline=baseline,
        seconds=seconds,
        bound_ms=bound_ms,
        precision=precision,
    )
    figures = []
    with sharing(target) as shared:
        for figure in measuring.run(quantity, request):
            console.note(f"{figure.model}: {figure.quantity}, batch {figure.batch}, length {figure.length:,}")
            figures.append(figure)
    for table in figures_table(request, figures):
        console.out.print(table)
    if json is not None:
        write_json(json, document(quantity, request, figures, shared))
