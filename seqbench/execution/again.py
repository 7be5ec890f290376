"""Measuring the costs of finished cells again: which of them, and what of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqbench import console
from seqbench import device as devices
from seqbench.errors import UsageError
from seqbench.execution import EXECUTORS
from seqbench.execution.orders import Order, Remeasuring
from seqbench.execution.schedule import run_one
from seqbench.execution.stopping import Stop
from seqbench.measuring.grid import LatencyGrid
from seqbench.measuring.quiet import noise
from seqbench.results import RECORD, Record, read_record
from seqbench.results.records import Part
from seqbench.show.progress import CellProgress, RunProgress
from seqbench.typed import build

PARTS: tuple[Part, ...] = ("training", "latency")
EPOCHS = 3  # of training that are timed


@dataclass(frozen=True)
class Request:
    """What to measure again.

    Args:
        everything: quiet figures, too.
        points: fields of LatencyGrid that are to be others than in each record.
        device: another one of the same kind, such as cuda:1; None for the first.
        files: model → the reference to its class, of models that are in files.
    """

    results: Path
    home: Path
    everything: bool = False
    epochs: int = EPOCHS
    points: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    files: Mapping[str, str] | None = None


def orders(records: Sequence[Record], request: Request) -> list[Order]:
    """Return an order for each finished cell of which something is to be measured again."""
    found = []
    for record in records:
        grid = replace(_grid(record), **request.points)
        parts = tuple(part for part in PARTS if record.finished and _wanted(record, part, grid, request))
        if parts:
            definition = record.definition
            found.append(
                Order(
                    definition=definition,
                    model=(request.files or {}).get(definition.model, definition.model),
                    home=request.home,
                    results=request.results,
                    device=str(devices.resolve(request.device or definition.device)),
                    force=request.everything,
                    latency=grid,
                    again=Remeasuring(parts, request.epochs),
                )
            )
    if request.device is not None and (other := [each for each in found if each.definition.device not in each.device]):
        raise UsageError(
            f"{other[0].definition.label()} was run on {other[0].definition.device}, not on {request.device}.",
            hint="Leave --device out, or choose with --models and --datasets.",
        )
    return found


def measure_all(todo: Sequence[Order], *, executor: str = "process") -> tuple[list[Record], list[Record]]:
    """Carry orders out one after the other: measuring beside other cells would be noise again.

    Returns:
        The records of the cells as they are now, and a record with the failure for each that could not be measured.
    """
    chosen, stop = EXECUTORS[executor], Stop()
    failed = []
    with RunProgress() as shown:
        for number, order in enumerate(todo, start=1):
            label = f"[{number}/{len(todo)}] {order.definition.label()}"
            failure = run_one(chosen, order, CellProgress(label, order, shown), stop)
            if failure is not None:
                failed.append(failure)
    records = [read_record(order.definition.folder(order.results) / RECORD) for order in todo]
    if noisy := [record for record in records if any(noise(record.cost, part) for part in PARTS)]:
        console.warn(f"{len(noisy)} of {len(records)} cells are still noisy: repeat it when the machine is quiet.")
    return records, failed


def _grid(record: Record) -> LatencyGrid:
    """Return the points of a record; those that are usual if it does not say."""
    stored = record.cost.get("latency_grid")
    return LatencyGrid() if stored is None else build(LatencyGrid, stored, "latency_grid")


def _wanted(record: Record, part: Part, grid: LatencyGrid, request: Request) -> bool:
    if part == "latency" and not grid.lengths:
        return False
    if part == "training" and record.definition.world_size > 1:
        return False  # here is one process
    other_points = part == "latency" and grid != _grid(record)
    return request.everything or other_points or noise(record.cost, part) > 0
