"""The process that runs one cell: its order as JSON on stdin, its events as JSON lines on stdout.

A process per cell keeps peak memory honest, and a cell that is killed (by the kernel for its memory, say) leaves
the others alone. The worker ends itself when stdin closes, so that it never outlives the command it works for.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from seqbench.errors import Diverged, SeqbenchError, StorageError, out_of_memory


def main() -> None:
    """Read one order, run it, and report `finished` or `failed` as the last event."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an event

    def emit(event: str, **fields: Any) -> None:
        events.write(json.dumps({"event": event, **fields}) + "\n")
        events.flush()

    try:
        _run(order, emit)
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        emit("failed", **describe(error, order["model"]))
        raise SystemExit(1) from None


def describe(error: Exception, reference: str = "") -> dict[str, str | None]:
    """kind, message and hint of a failure, as recorded; with the line, if it is in the user's own file of the model."""
    if out_of_memory(error):
        kind, message = "out-of-memory", str(error).splitlines()[0] if str(error) else "out of memory"
        return {
            "kind": kind,
            "message": message,
            "hint": "Lower batch_size with --set, or use another device.",
        }
    if isinstance(error, SeqbenchError):
        kinds = {StorageError: "storage", Diverged: "non-finite"}
        return {"kind": kinds.get(type(error), "error"), "message": error.message, "hint": error.hint}
    if os.environ.get("SEQBENCH_DEBUG"):
        traceback.print_exc()
    file = str(Path(reference.rpartition(":")[0]).expanduser())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" ({file}, line {lines[-1]})" if lines else ""
    return {
        "kind": "error",
        "message": f"{type(error).__name__}: {error}{place}",
        "hint": "Repeat with SEQBENCH_DEBUG=1 for the traceback.",
    }


def _run(order: dict[str, Any], emit: Any) -> None:
    from seqbench.cell import run_cell
    from seqbench.data.prepared import open_prepared
    from seqbench.locking import locked
    from seqbench.models import load_model, model_source
    from seqbench.ops.backends import AUTO, use
    from seqbench.results import CHECKPOINT, Definition, finished_record

    definition = Definition.from_dict(order["definition"])
    if model_source(order["model"]) != definition.source:
        raise SeqbenchError(f"{order['model']} has changed since the run began.", hint="Repeat the command.")
    results = Path(order["results"])
    folder = definition.folder(results)
    with locked(folder / ".lock", f"it is running {definition.label()}"):
        for left in folder.glob(".*.tmp"):  # of a worker that was killed
            left.unlink(missing_ok=True)
        if order["force"]:
            (folder / CHECKPOINT).unlink(missing_ok=True)
        # Another process may have finished it while this one waited.
        record = None if order["force"] else finished_record(results, definition)
        if record is None:
            prepared = open_prepared(definition.dataset, Path(order["home"]))
            if prepared.fingerprint != definition.fingerprint:
                raise SeqbenchError(
                    f"{prepared.name} was prepared anew since the run began.", hint="Repeat the command."
                )
            with use(definition.backend or AUTO):
                record = run_cell(definition, load_model(order["model"]), prepared, results, order["device"], emit)
    emit("finished", accuracy=record.accuracy, seconds=record.seconds)


def _end_with_parent() -> None:
    with contextlib.suppress(Exception):
        sys.stdin.read()
    os._exit(1)
