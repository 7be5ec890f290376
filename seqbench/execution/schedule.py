"""Going through cells: which is run next, what becomes of it, and what the user sees."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from seqbench import console
from seqbench.errors import SeqbenchError, StorageError, UsageError, storage_error
from seqbench.events import Begun, Event, Failed
from seqbench.execution import EXECUTORS, Executor
from seqbench.execution.orders import Order
from seqbench.execution.slots import Slot
from seqbench.execution.stopping import Stop
from seqbench.locking import claimed
from seqbench.measuring.grid import LatencyGrid
from seqbench.planning import Plan
from seqbench.results import RECORD, Record, read_record
from seqbench.results.estimates import Estimates
from seqbench.results.records import Changes, Environment, Failure
from seqbench.results.store import CLAIM, write_failure
from seqbench.show.progress import CellProgress, RunProgress

LOOK_AGAIN_SECONDS = 1.0  # between two looks at cells that other commands are running


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
    plan: Plan,
    *,
    executor: str | Executor = "process",
    jobs: int | None = None,
    keep_weights: bool = True,
    latency: LatencyGrid | None = None,
    until: float | None = None,
) -> list[Record]:
    """Run every cell of a plan that is not finished.

    A cell that fails is recorded as failed and the others go on; a full disk ends the run. A cell that another command
    on the same store is running is put off until there is nothing else to do.

    No cell or epoch is begun that would end too late, by the one before it or by finished cells of its kind; one that
    takes longer is ended, except by the executor that runs it in this very process. Finished epochs are kept.

    Args:
        executor: one, or a name of `EXECUTORS`.
        jobs: how many cells run at a time; None for one on each GPU, or one on the CPU.
        keep_weights: store the best epoch's weights.
        latency: the points that are measured, by default those of `LatencyGrid`.
        until: what `time.time()` is when nothing is to be running any more; None for as long as it takes.

    Returns:
        The records of all cells, in the plan's order; without those that there was no time for.

    Raises:
        UsageError: there is no room for so many jobs.
        StorageError: results cannot be stored.
        KeyboardInterrupt: after the cells that were being run have been stopped.
    """
    chosen = EXECUTORS[executor] if isinstance(executor, str) else executor
    places = chosen.slots(plan.devices, jobs, max(1, len(plan.todo)))
    if skipped := len(plan.cells) - len(plan.todo):
        console.note(f"{skipped} of {len(plan.cells)} cells are finished already; --force runs them again.")
    orders = [
        Order(
            definition=cell.definition,
            model=plan.models[cell.definition.model].reference,
            home=plan.home,
            results=plan.results,
            device=plan.devices[0],
            shared=plan.shared,
            force=cell.state == "forced",
            keep_weights=keep_weights,
            latency=latency or LatencyGrid(),
            until=until,
            attempt=cell.attempt,
        )
        for cell in plan.todo
    ]
    with RunProgress() as shown:
        work = _Run(chosen, orders, shown, until, Estimates.of(plan.results) if until else None)
        work.go(places)
    left = work.left if until else set()
    if left:
        total = len(plan.cells)
        console.note(f"The time is up: {len(left)} of {total} cells are not finished. Repeat the command to go on.")
    ended = [cell.definition for cell in plan.cells if cell.definition.key not in left]
    return [work.failures.get(each.key) or read_record(each.folder(plan.results) / RECORD) for each in ended]


class _Run:
    """Orders that are carried out in several places, each of which takes the next one when it is free."""

    def __init__(
        self,
        executor: Executor,
        orders: Sequence[Order],
        shown: RunProgress,
        until: float | None = None,
        estimates: Estimates | None = None,
    ) -> None:
        self.executor = executor
        self.until = until
        self.estimates = estimates or Estimates([])
        self.waiting = list(orders)
        self.shown = shown
        self.stop = Stop()
        self.failures: dict[str, Record] = {}
        self.left = {order.definition.key for order in orders}  # of cells that have not ended
        self._total = len(orders)
        self._taken = 0
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def go(self, places: Sequence[Slot]) -> None:
        """Carry all orders out that there is time for; `failures` and `left` say what became of them."""
        with _asking(self.stop, self.until):
            self._go(places)

    def _go(self, places: Sequence[Slot]) -> None:
        if len(places) == 1:
            self._work(places[0])  # here, where Ctrl-C arrives and a debugger can look
            return
        with ThreadPoolExecutor(len(places), "cells") as pool:
            working = [pool.submit(self._work, place) for place in places]
            try:
                done, _ = wait(working, return_when=FIRST_EXCEPTION)
                for each in done:
                    each.result()
            except BaseException:
                self.stop.request()
                raise

    def _work(self, place: Slot) -> None:
        while (order := self._next()) is not None:
            claim = order.definition.folder(order.results) / CLAIM
            with claimed(claim) if order.shared else nullcontext(True) as free:
                if free:
                    self._run(replace(order, **vars(place)))
                else:
                    self._put_off(order)

    def _next(self) -> Order | None:
        """Return the order that is first in line; None if there is none left, or no more are to be started."""
        with self._lock:
            self.waiting = [order for order in self.waiting if self._can_begin(order)]
            return self.waiting.pop(0) if self.waiting and not self.stop.requested else None

    def _can_begin(self, order: Order) -> bool:
        """Return whether there is time for an epoch of it at least, by finished cells of its kind."""
        return self.until is None or time.time() + self.estimates.epoch(order.definition) < self.until

    def _put_off(self, order: Order) -> None:
        """Let an order go to the end of the line; wait a little if all that are in it have been there."""
        definition = order.definition
        with self._lock:
            self.waiting.append(order)
            known = definition.key in self._told
            self._told.add(definition.key)
            alone = all(each.definition.key in self._told for each in self.waiting)
        if not known:
            console.note(f"{order.label} is being run by another command; it is looked at again at the end.")
        if alone:
            time.sleep(LOOK_AGAIN_SECONDS)

    def _run(self, order: Order) -> None:
        definition = order.definition
        with self._lock:
            self._taken += 1
            label = f"[{self._taken}/{self._total}] {order.label}"
        if order.outcome() is not None:
            console.note(f"{label}: another command has finished it")
            self.left.discard(definition.key)
            return
        failure = run_one(self.executor, order, CellProgress(label, order, self.shown), self.stop)
        with self._lock:
            if failure is not None:
                self.failures[definition.key] = failure
            if failure is not None or replace(order, force=False).outcome() is not None:
                self.left.discard(definition.key)


@contextmanager
def _asking(stop: Stop, until: float | None) -> Iterator[None]:
    """Ask everybody to end when the time is up."""
    timer = threading.Timer(max(0.0, (until or 0.0) - time.time()), stop.request)
    timer.daemon = True
    if until is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def failed_summary(failed: Sequence[Record], total: int) -> SeqbenchError:
    """Return the last word of a run in which cells failed."""
    lines = [f"{record.definition.label()}: {record.failure['message']}" for record in failed if record.failure]
    return SeqbenchError(
        "\n  ".join([f"{len(failed)} of {total} cells failed:", *lines]),
        hint="The others are stored. Repeat the command to try the failed ones again.",
    )


def run_one(executor: Executor, order: Order, progress: CellProgress, stop: Stop) -> Record | None:
    """Run one cell and show it; the record of a failure is stored and returned, unless it was asked to stop."""
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    environment: Environment = {}
    changes: Changes | None = None
    definition = order.definition
    with progress.run.showing(progress):

        def show(event: Event) -> None:
            nonlocal environment, changes
            if isinstance(event, Begun):
                environment, changes = event.environment, event.changes
            progress.show(event)

        outcome = executor.run(order, show, stop)
        progress.show(outcome)
    if not isinstance(outcome, Failed) or stop.requested:
        return None
    if outcome.kind == "storage":
        raise StorageError(f"{definition.label()}: {outcome.message}", hint=outcome.hint)
    console.fail(f"{order.label}: {outcome.message}", outcome.hint)
    record = Record(
        definition=definition,
        status="failed",
        started=started,
        seconds=time.perf_counter() - began,
        environment=environment,
        failure=Failure(kind=outcome.kind, message=outcome.message),
        changes=changes,
        trial=order.attempt.trial() if order.attempt else None,
    )
    write_failure(order.results, record)
    return record
