"""What training a model holds in memory, known before it begins.

A weight is held with its value in the best epoch, its two moments, and its gradient; of an item table that is trained
row by row the gradient is that of a few rows. What a batch takes comes on top: it does not grow with the catalogue.
"""

from rich import filesize

from seqbench.device import kind
from seqbench.errors import SeqbenchError
from seqbench.events import MemoryNeeded
from seqbench.models.base import SequenceModel, TrainingConfig
from seqbench.training.sparse import ItemTable

MOMENTS = 2


def check_memory(model: SequenceModel, training: TrainingConfig, table: ItemTable | None) -> MemoryNeeded:
    """Return what training will hold of the device's memory beside the weights that are there.

    Args:
        table: what is updated row by row, if anything is.

    Raises:
        SeqbenchError: it is more than is free.
    """
    device = model.item_weights().device
    by_rows = {id(parameter) for parameter in table.parameters} if table else set()
    copies = 1 + MOMENTS  # the best epoch's value first
    held = sum(each.nbytes * (copies + (id(each) not in by_rows)) for each in model.parameters())
    needed = MemoryNeeded(held, kind(device).free_memory(device))
    if held > needed.free:
        raise SeqbenchError(
            f"Training {type(model).__name__} among {model.items:,} items holds {filesize.decimal(held)} of weights, "
            f"moments and gradients, and {filesize.decimal(needed.free)} are free on {device}.",
            hint=_hint(training, table),
        )
    return needed


def _hint(training: TrainingConfig, table: ItemTable | None) -> str:
    smaller = "Choose a smaller hidden_size (--set hidden_size=32), or a machine with more memory"
    if table is not None:
        return f"{smaller}."
    sampled = "" if training.loss == "sampled-softmax" else "--set loss=sampled-softmax "
    return f"{smaller}; a table that is trained row by row has no gradients: {sampled}--set sparse_items=true."
