"""The executor that runs a cell in a process of its own."""

import contextlib
import subprocess
import sys
from pathlib import Path

import seqbench
from seqbench.events import Event, Failed, Listener, Outcome, from_json
from seqbench.execution import Executor
from seqbench.execution.orders import Order
from seqbench.execution.stopping import Stop
from seqbench.signals import deferred

# Starts a worker from this very copy of the package, and from nowhere else: a folder that happens to be the
# current one is not searched for modules.
WORKER = """
import sys
root = sys.argv[1]
root in sys.path or sys.path.insert(0, root)
from seqbench.execution.worker import main
main()
"""

# How long a worker gets to end by itself before it is killed.
PATIENCE_SECONDS = 5.0

KILLED = -9


def run(order: Order, on_event: Listener, stop: Stop) -> Outcome:
    """Run a cell in a new process; see `seqbench.execution.Executor`."""
    with deferred():  # a signal between the start and the first line below would leave the process behind
        worker = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, str(Path(seqbench.__file__).parent.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # Ctrl-C goes to the terminal's whole process group: to this process, which decides, and not to the worker.
            process_group=0 if sys.platform != "win32" else None,
        )
    try:
        with stop.calling(worker.kill):
            last = _listen(worker, order, on_event)
        code = worker.wait()
    finally:
        _end(worker)
    if last is not None:
        return last
    if code == KILLED:
        return Failed(
            "killed",
            "the process was killed, probably because memory ran out",
            "Lower batch_size with --set, or free memory, and repeat the command.",
        )
    return Failed("error", f"the process ended unexpectedly with code {code}", "See the lines above.")


def _listen(worker: "subprocess.Popen[str]", order: Order, on_event: Listener) -> Outcome | None:
    """Give the order, pass events on, and return the last one if it says how the cell ended."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.write(order.to_json() + "\n")
        worker.stdin.flush()
    event: Event | None = None
    for line in worker.stdout:
        event = from_json(line)
        if not isinstance(event, Outcome):
            on_event(event)
    return event if isinstance(event, Outcome) else None


def _end(worker: "subprocess.Popen[str]") -> None:
    """Wait for the worker to end, which it does when its stdin closes; kill it if it does not."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.close()
    worker.stdout.close()
    try:
        worker.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


EXECUTOR = Executor(run)
