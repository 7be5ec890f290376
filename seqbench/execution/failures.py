"""What became of a cell that raised an error, in words."""

import os
import traceback
from pathlib import Path

from seqbench.errors import Diverged, SeqbenchError, StorageError, out_of_memory
from seqbench.events import Failed


def failed(error: Exception, reference: str = "") -> Failed:
    """Return kind, message and hint of a failure, as recorded.

    Args:
        reference: of the model; if that is a file of the user's, the message names the line.
    """
    if out_of_memory(error):
        message = str(error).splitlines()[0] if str(error) else "out of memory"
        return Failed("out-of-memory", message, "Lower batch_size with --set, or use another device.")
    if isinstance(error, SeqbenchError):
        kinds = {StorageError: "storage", Diverged: "non-finite"}
        return Failed(kinds.get(type(error), "error"), error.message, error.hint)
    if os.environ.get("SEQBENCH_DEBUG"):
        traceback.print_exception(error)
    file = str(Path(reference.rpartition(":")[0]).expanduser())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" ({file}, line {lines[-1]})" if lines else ""
    return Failed("error", f"{type(error).__name__}: {error}{place}", "Repeat with SEQBENCH_DEBUG=1 for the traceback.")
