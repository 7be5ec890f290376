"""From what is asked for to the list of cells: which are finished, which are to be run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqbench import console
from seqbench.data.prepared import PreparedDataset
from seqbench.errors import UsageError, unknown_name
from seqbench.execution.orders import Attempt
from seqbench.models import ModelEntry, find_model, model_names
from seqbench.ops.backends import resolve
from seqbench.protocol import Protocol
from seqbench.results import CHECKPOINT, RECORD, Definition, UnreadableRecord, read_record
from seqbench.results.records import FULL
from seqbench.settings import PRESETS, configure

State = Literal["finished", "resumable", "new", "forced"]


@dataclass(frozen=True)
class PlannedCell:
    """One definition, and what the store holds of it."""

    definition: Definition
    state: State
    attempt: Attempt | None = None  # what it is in a search; None: it is run to its end, and tested


@dataclass(frozen=True)
class Plan:
    """The cells of a run, and what they are run with."""

    cells: list[PlannedCell]
    models: dict[str, ModelEntry]  # by name
    home: Path
    results: Path
    devices: list[str]  # of one kind, such as ["cpu"] or ["cuda:0", "cuda:1"]
    shared: bool = True  # other commands may run the same cells

    @property
    def todo(self) -> list[PlannedCell]:
        """Return the cells that are not finished."""
        return [cell for cell in self.cells if cell.state != "finished"]


def parse_models(references: Sequence[str] | None) -> dict[str, ModelEntry]:
    """Find each model that is referred to, by name; all registered models if None.

    Raises:
        UsageError: none at all, one that cannot be loaded, or two of the same name.
    """
    chosen: dict[str, ModelEntry] = {}
    for reference in model_names() if references is None else references:
        try:
            entry = find_model(reference)
            entry.load()
        except UsageError as error:
            if references is not None:
                raise
            console.warn(f"{error.message} It is left out.")  # of another package, and not asked for
            continue
        before = chosen.setdefault(entry.name, entry)
        if before.reference != entry.reference:
            raise UsageError(
                f"Two models are called {entry.name}: {before.reference} and {entry.reference}.",
                hint="Rename one of the classes.",
            )
    if not chosen:
        raise UsageError("No model is named.", hint="See `seqbench list models`.")
    return chosen


def define(
    prepared: PreparedDataset,
    models: Iterable[ModelEntry],
    seeds: Sequence[int],
    *,
    protocol: Protocol,
    preset: str | None,
    overrides: Mapping[str, Mapping[str, Any]],
    epochs: int | None,
    device: str,
    backend: str,
    precision: str = FULL,
    world_size: int = 1,
    tuned: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Definition]:
    """Return all cells of one data set, model by model. A model without anything random has one cell, of seed 0.

    Args:
        models: those to be run, in this order.
        tuned: model → field → value that a search has chosen, instead of a preset.
        preset: "paper" for the values that a model's paper gives for this data set, or None for its defaults.
        overrides: model → field → value, or text that is read as one.
        device: such as "cpu" or "cuda:1"; its kind is part of the definition, its number is not.
        backend: name of a backend of the operators, or "auto".
        precision: a name of seqbench.precision.PRECISIONS; nothing is rounded where nothing is trained by gradient.
        world_size: processes that train each cell together.
    """
    if preset not in (None, *PRESETS):
        raise unknown_name("Preset", str(preset), PRESETS, "seqbench run --help")
    kind = device.partition(":")[0]
    definitions = []
    for entry in models:
        name, cls = entry.name, entry.cls
        values = cls.presets.get(prepared.name) if preset else (tuned or {}).get(name)
        if preset and cls.training_defaults and values is None:
            console.note(f"The paper of {name} gives no values for {prepared.name}; its defaults are used there.")
        config, training = configure(entry, overrides.get(name, {}), epochs, values)
        if cls.Config(**config).uses_times and not prepared.has_times:
            console.warn(f"{prepared.name} has only an order: to {name}, all times there are the same.")
        definitions += [
            Definition(
                dataset=prepared.name,
                fingerprint=prepared.fingerprint,
                protocol=protocol,
                model=name,
                config=config,
                training=training,
                seed=seed,
                device=kind,
                backend=None if training is None else resolve("linear_scan", backend, kind).name,
                source=entry.source,
                precision=FULL if training is None else precision,
                world_size=1 if training is None else world_size,
            )
            for seed in (seeds if training is not None else [0])
        ]
    return definitions


def look_up(definition: Definition, results: Path, *, force: bool = False) -> PlannedCell:
    """Return what the store already holds of a cell; with `force`, it is to be run anew whatever that is.

    Raises:
        UnreadableRecord: a newer seqbench has finished it; running it again would overwrite that.
    """
    folder = definition.folder(results)
    if force:
        return PlannedCell(definition, "forced")
    if (folder / RECORD).exists():
        try:
            if read_record(folder / RECORD).finished:
                return PlannedCell(definition, "finished")
        except UnreadableRecord as error:
            if error.newer:
                raise
            console.warn(f"{error.message} It is measured again.")
    return PlannedCell(definition, "resumable" if (folder / CHECKPOINT).exists() else "new")
