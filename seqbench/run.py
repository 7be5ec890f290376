"""Runs cells one after the other, each in a worker process, and shows what they do."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import seqbench
from seqbench import console
from seqbench.errors import SeqbenchError, StorageError, storage_error
from seqbench.plan import Cell
from seqbench.progress import CellProgress
from seqbench.results import Record, finished_record, write_record

# Starts a worker from this very copy of the package, and from nowhere else: a folder that happens to be the
# current one is not searched for modules.
WORKER = """
import sys
root = sys.argv[1]
root in sys.path or sys.path.insert(0, root)
from seqbench.worker import main
main()
"""

# How long a worker gets to end by itself before it is killed.
PATIENCE_SECONDS = 5.0


def check_writable(results: Path) -> None:
    """Find out before hours of training that nothing can be stored.

    Raises:
        StorageError: the folder cannot be created or written to.
    """
    probe = results / ".writable"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another command may be probing, too
    except OSError as error:
        raise storage_error(error, results) from error


def run_cells(cells: Sequence[Cell], *, models: Mapping[str, str], home: Path, results: Path, device: str) -> list[str]:
    """Run every cell that is not finished.

    A cell that fails is recorded as failed and the others go on; a full disk ends the run.

    Args:
        models: name → reference, from which the worker loads the class.

    Returns:
        One line for each cell that failed.

    Raises:
        StorageError: results cannot be stored.
        KeyboardInterrupt: after the worker has been stopped.
    """
    failures = []
    todo = [cell for cell in cells if cell.state != "finished"]
    if skipped := len(cells) - len(todo):
        console.note(f"{skipped} of {len(cells)} cells are finished already; --force runs them again.")
    for number, cell in enumerate(todo, start=1):
        label = cell.definition.label()
        order = {
            "definition": dataclasses.asdict(cell.definition),
            "model": models[cell.definition.model],
            "home": str(home),
            "results": str(results),
            "device": device,
            "force": cell.state == "forced",
        }
        started = datetime.now(UTC).isoformat(timespec="seconds")
        began = time.perf_counter()
        with CellProgress(f"[{number}/{len(todo)}] {label}", cell.definition) as progress:
            outcome, about = _work(order, progress)
        if outcome["event"] == "finished":
            continue
        failure = {key: outcome[key] for key in ("kind", "message")}
        if failure["kind"] == "storage":
            raise StorageError(f"{label}: {failure['message']}", hint=outcome["hint"])
        if finished_record(results, cell.definition) is None:  # which a failure never replaces
            seconds = time.perf_counter() - began
            write_record(results, Record(cell.definition, "failed", started, seconds, failure=failure, **about))
        failures.append(f"{label}: {failure['message']}")
        console.fail(failures[-1], outcome["hint"])
    return failures


def _work(order: dict[str, Any], progress: CellProgress) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run one worker to its end: its last event, and what it says of itself: the record's `environment`, `changes`."""
    worker = subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER, str(Path(seqbench.__file__).parent.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    about: dict[str, Any] = {"environment": {}}
    last: dict[str, Any] = {}
    try:
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(json.dumps(order) + "\n")
            worker.stdin.flush()
        for line in worker.stdout:
            last = json.loads(line)
            if last["event"] == "begun":
                about = {name: last[name] for name in ("environment", "changes")}
            else:
                progress.show(last)
        code = worker.wait()
    finally:
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.close()  # which the worker takes as the order to end
        worker.stdout.close()
        try:
            worker.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    if last.get("event") in ("finished", "failed"):
        return last, about
    if code == -9:
        message = "the process was killed, probably because memory ran out"
        hint = "Lower batch_size with --set, or free memory, and repeat the command."
        return {"event": "failed", "kind": "killed", "message": message, "hint": hint}, about
    message = f"the process ended unexpectedly with code {code}"
    return {
        "event": "failed",
        "kind": "error",
        "message": message,
        "hint": "See the lines above.",
    }, about


def failed_summary(failures: Sequence[str], total: int) -> SeqbenchError:
    """The last word of a run in which cells failed."""
    return SeqbenchError(
        "\n  ".join([f"{len(failures)} of {total} cells failed:", *failures]),
        hint="The others are stored. Repeat the command to try the failed ones again.",
    )
