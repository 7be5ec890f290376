"""Latency that was measured before: weights do not matter for it, so that one seed speaks for all."""

from dataclasses import asdict
from pathlib import Path

from seqbench.measuring.grid import LatencyGrid
from seqbench.results.records import Definition, Environment, Record, UnreadableRecord, read_record
from seqbench.results.store import RECORD

# What latency depends on besides the model and the number of items.
DEFINITION = ("fingerprint", "config", "source", "device", "backend", "precision", "revision")
MACHINE = ("cpu", "cores", "threads", "device_name", "torch", "seqbench", "git_commit")


def measured_before(results: Path, definition: Definition, machine: Environment, grid: LatencyGrid) -> Record | None:
    """Return a finished record whose latency is that of this cell, measured on this machine while it was quiet.

    Args:
        machine: where this cell runs; code that no commit names is measured again.
        grid: the points that are wanted.
    """
    commit = machine.get("git_commit")
    if commit is not None and commit.endswith("+"):
        return None
    for path in sorted(definition.folder(results).parent.glob(f"*/{RECORD}")):
        try:
            record = read_record(path)
        except UnreadableRecord:
            continue
        if (
            record.finished
            and record.cost.get("latency_grid") == plain(grid)
            and all(getattr(record.definition, name) == getattr(definition, name) for name in DEFINITION)
            and all(record.environment.get(name) == machine.get(name) for name in MACHINE)
            and not any(point.get("conditions", {}).get("disturbances") for point in record.cost.get("latency", []))
        ):
            return record
    return None


def plain(grid: LatencyGrid) -> dict[str, object]:
    """Return a grid as JSON would give it back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(grid).items()}
