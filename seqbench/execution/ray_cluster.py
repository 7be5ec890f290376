"""The executor that runs cells as tasks of a Ray cluster (https://docs.ray.io), each in a process of its own there.

What is asked for and what happens travels as JSON; nothing of a node is trusted with more than that and the files of
its cell. Results are written where the driver sees them if the node sees the same folder, else they come back as bytes.
"""

import contextlib
import logging
import os
import platform
import queue
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import seqbench
from seqbench import console, paths
from seqbench.data.prepared import open_prepared
from seqbench.errors import SeqbenchError, UsageError
from seqbench.events import Failed, Finished, Listener, Outcome, from_json, to_json
from seqbench.execution import Executor, process
from seqbench.execution.failures import failed
from seqbench.execution.orders import Order
from seqbench.execution.slots import Slot, usual_threads
from seqbench.execution.stopping import Stop
from seqbench.files import replacing
from seqbench.inference.items import ITEM_IDS
from seqbench.results import RANKS, RECORD, SAMPLES, TOP, WEIGHTS
from seqbench.results.store import remove_cell
from seqbench.signals import ENDING

# How often a cell is begun again after its worker or node was lost. A cell that fails by itself is not.
RETRIES = 3
CHUNK_BYTES = 1 << 25  # of a file, in one message

_connecting = threading.Lock()


class _NeedsData(Exception):
    """The node has no such prepared data set."""


def slots(devices: Sequence[str], jobs: int | None, cells: int) -> list[Slot]:
    """Return the places of the cluster: by default one on each GPU, or one on each node's processor.

    Raises:
        UsageError: Ray is not installed or cannot be reached, or it has not enough GPUs or cores.
    """
    nodes = [node["Resources"] for node in _connect().nodes() if node["Alive"]]
    threads = usual_threads()
    if devices[0] != "cpu":
        gpus = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes if node.get("GPU", 0) >= 1]
        total = sum(count for _, count in gpus)
        if total < (jobs or 1):
            raise UsageError(f"--jobs {jobs or 1} needs as many GPUs; the cluster has {total}.")
        share = max(1, min(cores // count for cores, count in gpus))
        beside = max(count for _, count in gpus) - 1
        return [Slot("cuda:0", threads, reserved=share, beside=beside)] * min(jobs or total, cells)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if sum(cores) < (jobs or 1):
        raise UsageError(f"--jobs {jobs or 1} needs as many cores; the cluster has {sum(cores)}.")
    count = min(jobs or len(cores), cells)
    # The largest share of which there is one for every cell.
    share = next(size for size in range(max(cores), 0, -1) if sum(held // size for held in cores) >= count)
    beside = min(count, max(held // share for held in cores)) - 1
    return [Slot("cpu", threads, reserved=share, beside=beside)] * count


def run(order: Order, on_event: Listener, stop: Stop) -> Outcome:
    """Run a cell on some node, again if that is lost; see `seqbench.execution.Executor`."""
    ray = _connect()
    lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError,
            ray.exceptions.ObjectLostError)  # fmt: skip
    label = order.label
    data: Mapping[str, Any] | None = None
    tries = 0
    while True:
        try:
            return _follow(ray, order, data, on_event, stop)
        except _NeedsData:
            console.note(f"{label}: its node gets the prepared data set.")
            folder = open_prepared(order.definition.dataset, order.home).directory
            data = {file.name: ray.put(file.read_bytes()) for file in folder.iterdir() if file.is_file()}
        except ray.exceptions.OutOfMemoryError:
            return Failed("out-of-memory", "its node ran out of memory", "Lower batch_size with --set, or --jobs.")
        except ray.exceptions.TaskCancelledError:
            return Failed("killed", "it was cancelled", "Repeat the command.")
        except lost:
            tries += 1
            if stop.requested or tries > RETRIES:
                return Failed("killed", f"its worker or node was lost {tries} times", "Repeat the command.")
            console.note(f"{label}: its worker or node was lost; it goes on elsewhere.")
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            return Failed("error", f"Ray could not run it: {reason}", "Is seqbench installed on every node?")


def _follow(ray: Any, order: Order, data: Mapping[str, Any] | None, on_event: Listener, stop: Stop) -> Outcome:
    """Start a task, pass its events on, store the files that it sends, and return how it ended.

    Raises:
        _NeedsData: its node lacks the data set; nothing was begun.
        RayError: the task, its worker or its node came to an end.
    """
    definition = order.definition
    outcome: Outcome | None = None
    with _probe(order.results) as probe:
        task = _task(ray).options(
            num_cpus=order.reserved or 1,
            num_gpus=0 if order.device == "cpu" else 1,
            scheduling_strategy="SPREAD",
            name=order.label,
        )
        stream = task.remote(order.to_json(), seqbench.__version__, probe.name, data)
        with _Received(definition.folder(order.results)) as files, stop.calling(lambda: ray.cancel(stream, force=True)):
            try:
                for message in map(ray.get, stream):
                    if message is None:
                        raise _NeedsData
                    if not isinstance(message, str):
                        files.add(*message)
                    elif isinstance(event := from_json(message), Outcome):
                        outcome = event
                    else:
                        on_event(event)
            except BaseException:
                ray.cancel(stream, force=True)
                raise
    return outcome or Failed("error", "its task ended without a word", "Repeat the command.")


@cache
def _task(ray: Any) -> Any:
    """Return `carry_out` as a task, whose process ends with it, and which Ray itself does not begin again."""
    return ray.remote(max_calls=1, max_retries=0, num_returns="streaming")(carry_out)


class _Received:
    """Files of a cell that come in pieces. They take their places when all are there, the record last."""

    NAMES = (RECORD, RANKS, TOP, SAMPLES, WEIGHTS, ITEM_IDS)  # the record first: what is begun first is ended last

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths: dict[str, Path] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "_Received":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def add(self, name: str, content: bytes) -> None:
        """Append to the file of a name.

        Raises:
            SeqbenchError: no cell has such a file.
        """
        if name not in self.NAMES:
            raise SeqbenchError(f"A node sent {name[:100]!r}, which no cell has.", hint="Is it running seqbench?")
        if name not in self._paths:
            self._paths[name] = self._open.enter_context(replacing(self.folder / name))
        with self._paths[name].open("ab") as stream:
            stream.write(content)


def carry_out(
    text: str, version: str, probe: str, data: Mapping[str, Any] | None
) -> Iterator[str | tuple[str, bytes] | None]:
    """Run a cell on this node: the task.

    Args:
        text: the order.
        version: of the driver's seqbench.
        probe: the name of a file in the driver's results folder.
        data: file name → reference to its bytes, of the prepared data set.

    Yields:
        Events as JSON, the last one being how the cell ended; before it the pieces of its files, as (name, bytes), if
        the results folder is another one than the driver's; or None alone if the node lacks the data set.
    """
    if seqbench.__version__ != version:
        message = f"{platform.node()} has seqbench {seqbench.__version__}, and the driver has {version}"
        yield to_json(Failed("error", message, "Install the same release on every node."))
        return
    # Ray sets it to the cores that are reserved; another number of threads would mean other sums.
    os.environ.pop("OMP_NUM_THREADS", None)
    order, own = Order.from_json(text), paths.home() / "ray"
    shared = (order.results / probe).exists()
    if not shared:
        order = replace(order, results=own / "results")
        if order.again is not None:
            message = f"{platform.node()} does not see the results folder"
            yield to_json(Failed("error", message, "Measure cells again where they were run."))
            return
    if not _has_data(order):
        order = replace(order, home=own / order.definition.fingerprint)
        if not _has_data(order):
            if data is None:
                yield None
                return
            _store_data(order, data)
    last = ""
    for last in _lines(order):
        if not isinstance(from_json(last), Outcome):
            yield last
    folder = order.definition.folder(order.results)
    if not shared and isinstance(from_json(last), Finished):
        for name in _Received.NAMES:
            if (folder / name).is_file():
                with (folder / name).open("rb") as stream:
                    for piece in iter(partial(stream.read, CHUNK_BYTES), b""):
                        yield name, piece
        remove_cell(order.results, folder)
    yield last


def _lines(order: Order) -> Iterator[str]:
    """Run a cell in a process of its own; yield what happens as JSON, and how it ended as the last of it."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome = process.run(order, lambda event: lines.put(to_json(event)), Stop())
        except Exception as error:
            outcome = failed(error)
        lines.put(to_json(outcome))
        lines.put(None)

    threading.Thread(target=work, daemon=True).start()
    yield from iter(lines.get, None)


def _has_data(order: Order) -> bool:
    """Return whether the prepared data set of an order is here, and the same one."""
    try:
        return open_prepared(order.definition.dataset, order.home).fingerprint == order.definition.fingerprint
    except SeqbenchError:
        return False


def _store_data(order: Order, data: Mapping[str, Any]) -> None:
    """Store a prepared data set on this node. Its content is compared with its fingerprint when it is read."""
    import ray

    folder = paths.prepared(order.home, order.definition.dataset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        for name, reference in data.items():
            (Path(temporary) / Path(name).name).write_bytes(ray.get(reference))
        with contextlib.suppress(OSError):  # another task of this node was faster
            Path(temporary).rename(folder)
            Path(temporary).mkdir()


@contextlib.contextmanager
def _probe(results: Path) -> Iterator[Path]:
    """Put a file into the results folder by which a node can tell whether it sees the same one."""
    path = results / f".probe-{uuid.uuid4().hex}"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _connect() -> Any:
    """Return the module of Ray, connected: to RAY_ADDRESS, to a cluster that runs here, or to one of its own.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError(f"Ray is not installed ({error.name}).", hint="Run `pip install 'seqbench[ray]'`.") from error
    with _connecting:
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a benchmark tells nobody what it runs
            handlers = {number: signal.getsignal(number) for number in ENDING}
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                address = os.environ.get("RAY_ADDRESS", "a local one")
                raise UsageError(
                    f"The Ray cluster cannot be reached ({address}): {str(error).strip().splitlines()[0]}",
                    hint="See `ray status`; --address or RAY_ADDRESS names the cluster.",
                ) from error
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray takes SIGTERM for itself
                    signal.signal(number, handler)
    return ray


EXECUTOR = Executor(run, slots)
