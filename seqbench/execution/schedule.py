"""Going through cells: which is run next, what becomes of it, and what the user sees."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from seqbench import console
from seqbench.errors import SeqbenchError, StorageError, UsageError, storage_error
from seqbench.events import Begun, Event, Failed
from seqbench.execution import EXECUTORS, Executor
from seqbench.execution.orders import Order
from seqbench.measuring.grid import LatencyGrid
from seqbench.planning import Plan
from seqbench.results import RECORD, Record, finished_record, read_record, write_record
from seqbench.results.records import Changes, Environment, Failure
from seqbench.show.progress import CellProgress


def check_writable(results: Path) -> None:
    """Find out before hours of training that nothing can be stored.

    Raises:
        UsageError: its path cannot be written as text, which other programs and files need.
        StorageError: the folder cannot be created or written to.
    """
    try:
        str(results.resolve()).encode()
    except UnicodeEncodeError:
        raise UsageError(
            "The path of the results folder is not UTF-8.", hint="Choose another with --results."
        ) from None
    probe = results / ".writable"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another command may be probing, too
    except OSError as error:
        raise storage_error(error, results) from error


def run_plan(
    plan: Plan, *, executor: str = "process", keep_weights: bool = True, latency: LatencyGrid | None = None
) -> list[Record]:
    """Run every cell of a plan that is not finished.

    A cell that fails is recorded as failed and the others go on; a full disk ends the run.

    Args:
        executor: a name of `EXECUTORS`.
        keep_weights: store the best epoch's weights.
        latency: the points that are measured, by default those of `LatencyGrid`.

    Returns:
        The records of all cells, in the plan's order.

    Raises:
        StorageError: results cannot be stored.
        KeyboardInterrupt: after the cell that was being run has been stopped.
    """
    execute = EXECUTORS[executor]
    failures: dict[str, Record] = {}
    if skipped := len(plan.cells) - len(plan.todo):
        console.note(f"{skipped} of {len(plan.cells)} cells are finished already; --force runs them again.")
    for number, cell in enumerate(plan.todo, start=1):
        order = Order(
            definition=cell.definition,
            model=plan.models[cell.definition.model].reference,
            home=plan.home,
            results=plan.results,
            device=plan.device,
            force=cell.state == "forced",
            keep_weights=keep_weights,
            latency=latency or LatencyGrid(),
        )
        if failure := run_one(execute, order, f"[{number}/{len(plan.todo)}] {cell.definition.label()}"):
            failures[cell.definition.key] = failure
    return [
        failures.get(cell.definition.key) or read_record(cell.definition.folder(plan.results) / RECORD)
        for cell in plan.cells
    ]


def failed_summary(failed: Sequence[Record], total: int) -> SeqbenchError:
    """Return the last word of a run in which cells failed."""
    lines = [f"{record.definition.label()}: {record.failure['message']}" for record in failed if record.failure]
    return SeqbenchError(
        "\n  ".join([f"{len(failed)} of {total} cells failed:", *lines]),
        hint="The others are stored. Repeat the command to try the failed ones again.",
    )


def run_one(execute: Executor, order: Order, label: str) -> Record | None:
    """Run one cell and show it; the record of a failure is stored and returned."""
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    environment: Environment = {}
    changes: Changes | None = None
    definition = order.definition
    with CellProgress(label, order) as progress:

        def show(event: Event) -> None:
            nonlocal environment, changes
            if isinstance(event, Begun):
                environment, changes = event.environment, event.changes
            progress.show(event)

        outcome = execute(order, show)
        progress.show(outcome)
    if not isinstance(outcome, Failed):
        return None
    if outcome.kind == "storage":
        raise StorageError(f"{definition.label()}: {outcome.message}", hint=outcome.hint)
    console.fail(f"{definition.label()}: {outcome.message}", outcome.hint)
    record = Record(
        definition=definition,
        status="failed",
        started=started,
        seconds=time.perf_counter() - began,
        environment=environment,
        failure=Failure(kind=outcome.kind, message=outcome.message),
        changes=changes,
    )
    if finished_record(order.results, definition) is None:  # which a failure never replaces
        write_record(order.results, record)
    return record
