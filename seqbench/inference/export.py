"""A trained model as files that run without seqbench.

    encoder   (items (B, T), lengths (B,)) → states (B, D)             of models without a GRU, whose loop has no length
    step      (items (B,), *state) → states (B, D), *state             of incremental models
    scores    states (B, D) → scores (B, V); column 0 is padding

A model that uses times takes two more arguments behind `items` and `lengths`, the times of the items and those of the
requests (seqbench/models/times.py), (B, T) or (B,).

All are torch.export programs (.pt2, `torch.export.load`) or ONNX models, of any batch size and of any length from 2 to
the maximum; the weights are inside. Beside them: items.parquet with the raw ids, state.safetensors with the state of an
empty history, and export.json, which says all of this. Operators of our own are written as torch operations
(seqbench.ops.parallel). Every program is run and compared with the model before it is written.

Shapes: B batch, T time, D width, V items plus padding.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqbench.errors import SeqbenchError, UsageError
from seqbench.files import replacing, write_json
from seqbench.inference.items import ITEM_IDS
from seqbench.inference.trained import TrainedModel
from seqbench.models.base import IncrementalModel, SequenceModel, State, scored_by_table
from seqbench.models.times import Times, given, synthetic_times
from seqbench.ops.parallel import parallel_scans
from seqbench.registry import Registry
from seqbench.results import WEIGHTS

TOLERANCE = 1e-5  # of the largest number
INITIAL = "state.safetensors"
DESCRIPTION = "export.json"


class Encoder(nn.Module):
    """From histories to states."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, lengths: Tensor, *times: Tensor) -> Tensor:
        return self.model.last_states(items, lengths, *([Times(*times)] if times else []))


class Appending(nn.Module):
    """From an item and a state to the states after it."""

    def __init__(self, model: IncrementalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        count = len(Times._fields) if self.model.config.uses_times else 0
        states, after = self.model.step(items, rest[count:], *([Times(*rest[:count])] if count else []))
        return states, *after


class Scores(nn.Module):
    """From states to scores."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor) -> Tensor:
        return self.model.score_states(states)


@dataclass(frozen=True)
class Exported:
    """A program of torch.export that gives what the model gives."""

    name: str
    program: Any  # torch.export.ExportedProgram
    arguments: tuple[Tensor, ...]  # an example
    results: tuple[Tensor, ...]


def export(trained: TrainedModel, form: str, folder: Path) -> list[str]:
    """Write a trained model to a folder in one of FORMATS.

    Returns:
        What was left out, and why, in words.

    Raises:
        UsageError: no such format, or the folder has something else in it, or the model has no states to export.
        SeqbenchError: what was exported does not give what the model gives, or a package is missing.
        StorageError: the folder cannot be written to.
    """
    write = FORMATS[form]
    if folder.exists() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file():
        raise UsageError(f"{folder} has something else in it.", hint="Name an empty folder with --output.")
    folder.mkdir(parents=True, exist_ok=True)
    ids = trained.ids  # checked
    notes = write(trained, folder)
    ids.write(folder / ITEM_IDS)
    return notes


def _weights(trained: TrainedModel, folder: Path) -> list[str]:
    with replacing(folder / WEIGHTS) as temporary:
        shutil.copyfile(trained.folder / WEIGHTS, temporary)
    write_json(folder / DESCRIPTION, _description(trained) | {"config": trained.record.definition.config})
    return []


def _torch_programs(trained: TrainedModel, folder: Path) -> list[str]:
    def write(exported: Exported, path: Path) -> None:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            torch.export.save(exported.program, stream)

    return _programs(trained, folder, ".pt2", write)


def _onnx_models(trained: TrainedModel, folder: Path) -> list[str]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SeqbenchError(
            f"ONNX needs a package that is not installed ({error.name}).", hint="pip install 'seqbench[export]'"
        ) from error

    def write(exported: Exported, path: Path) -> None:
        model = torch.onnx.export(exported.program, dynamo=True, verbose=False)
        assert model is not None
        with replacing(path) as temporary:
            model.save(temporary)
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        given = {name: each.numpy() for name, each in zip(names, exported.arguments, strict=True)}
        found = [torch.from_numpy(each) for each in session.run(None, given)]
        _compare(exported.name, found, exported.results)

    return _programs(trained, folder, ".onnx", write)


FORMATS: Registry[Callable[[TrainedModel, Path], list[str]]] = Registry(
    "Export format",
    {"torch-export": _torch_programs, "onnx": _onnx_models, "safetensors": _weights},
    "seqbench export --help",
)


def _programs(trained: TrainedModel, folder: Path, ending: str, write: Callable[[Exported, Path], None]) -> list[str]:
    model = scored_by_table(trained.model)
    if model is None:
        raise UsageError(
            f"{trained.record.definition.model} does not score by states.", hint="Use --format safetensors."
        )
    notes, signatures = [], {}
    if _has_gru(model):
        notes.append(f"There is no encoder{ending}: a GRU is a loop, and as long as the example. Go by the step.")
    for name, make in _candidates(model):
        try:
            exported = make()
            write(exported, folder / f"{name}{ending}")
        except SeqbenchError:
            raise
        except Exception as error:  # torch has no common class for what it cannot export
            (folder / f"{name}{ending}").unlink(missing_ok=True)
            notes.append(f"There is no {name}{ending}: {_reason(error)}")
            continue
        signatures[name] = {
            "arguments": [_kind(each) for each in exported.arguments],
            "results": [_kind(each) for each in exported.results],
        }
    if isinstance(model, IncrementalModel) and "step" in signatures:
        from safetensors.torch import save_file

        with replacing(folder / INITIAL) as temporary:
            save_file({f"state.{at}": each.contiguous() for at, each in enumerate(model.initial_state(1))}, temporary)
    write_json(folder / DESCRIPTION, _description(trained) | {"programs": signatures})
    return notes


def _candidates(model: SequenceModel) -> Iterator[tuple[str, Callable[[], Exported]]]:
    """Yield the names of the programs of a model, and what makes them."""
    from torch.export import Dim

    width, longest = model.item_weights().shape[1], model.max_len
    some = {0: Dim.DYNAMIC}

    def rows(B: int, T: int) -> tuple[Tensor, ...]:
        lengths = torch.arange(B) % T + 1
        items = (torch.arange(B * T) % model.items + 1).view(B, T)
        return items * (torch.arange(T) < lengths.unsqueeze(1)), lengths, *_some_times(model, items)

    if longest >= 2 and not _has_gru(model):
        both = {0: Dim.DYNAMIC, 1: Dim("length", min=2, max=longest)}
        examples = [rows(3, min(7, longest)), rows(5, longest), rows(1, 2)]
        shapes = both, some, *(both for _ in examples[0][2:])
        yield "encoder", lambda: _exported("encoder", Encoder(model), examples, shapes, longest)
    if isinstance(model, IncrementalModel) and model.config.incremental:
        appended = [torch.arange(B) % model.items + 1 for B in (2, 5, 1)]
        steps = [(each, *_last_times(model, each), *_some_state(model, each)) for each in appended]
        every = some, *(some for _ in steps[0][1:])
        yield "step", lambda: _exported("step", Appending(model), steps, every, longest)
    tables: list[tuple[Tensor, ...]] = [(torch.linspace(-1, 1, B * width).view(B, width),) for B in (2, 5, 1)]
    yield "scores", lambda: _exported("scores", Scores(model), tables, (some,), longest)


def _has_gru(model: SequenceModel) -> bool:
    return any(isinstance(each, nn.GRU) for each in model.modules())


def _reason(error: BaseException) -> str:
    """Return the first lines of what torch says, and of what that was caused by."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", str(each)).strip().partition("\n")[0] for each in (error, error.__cause__)]
    return " ".join(dict.fromkeys(line for line in lines if line and line != "None"))


def _some_times(model: SequenceModel, items: Tensor) -> tuple[Tensor, ...]:
    """Return the times of items (B, T) and of requests, (B, T) each, if the model uses them."""
    return tuple(each.contiguous() for each in synthetic_times(model, items) or ())


def _last_times(model: SequenceModel, items: Tensor) -> tuple[Tensor, ...]:
    """Return times (B,) of items (B,) that are appended to one other."""
    return tuple(each[:, -1] for each in _some_times(model, items.unsqueeze(1).expand(-1, 2)))


def _some_state(model: IncrementalModel, items: Tensor) -> State:
    """Return the state after one item, items (B,)."""
    with torch.no_grad():
        columns = items.unsqueeze(1)
        start = model.initial_state(len(items))
        return model.prefill(columns, None, *given(synthetic_times(model, columns))) if model.max_len > 1 else start


def _exported(name: str, module: nn.Module, examples: list[tuple[Tensor, ...]], shapes: Any, longest: int) -> Exported:
    """Export a module for the first example, and compare it with the module on all."""
    plain = {"encoder": 2, "step": 1, "scores": 1}[name]  # arguments with a name; those behind come one by one
    if len(shapes) > plain or name == "step":
        shapes = (*shapes[:plain], tuple(shapes[plain:]))
    with torch.no_grad(), parallel_scans(longest):
        program = torch.export.export(module, tuple(map(torch.clone, examples[0])), dynamic_shapes=shapes)
    run = program.module()
    results = []
    for example in examples:
        with torch.no_grad():
            expected, found = (each(*map(torch.clone, example)) for each in (module, run))
        results.append(tuple(expected) if isinstance(expected, tuple) else (expected,))
        _compare(name, tuple(found) if isinstance(found, tuple | list) else (found,), results[-1])
    return Exported(name, program, examples[0], results[0])


def _compare(name: str, found: Any, expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or float((one - other).abs().max()) > TOLERANCE * max(
            1.0, float(other.abs().max())
        ):
            raise SeqbenchError(f"The exported {name} does not give what the model gives.", hint="Please report it.")


def _kind(example: Tensor) -> list[Any]:
    """Return type and shape of a tensor; None where any size will do."""
    return [str(example.dtype).removeprefix("torch."), [None, *example.shape[1:]]]


def _description(trained: TrainedModel) -> dict[str, Any]:
    definition = trained.record.definition
    return {
        "model": definition.model,
        "dataset": definition.dataset,
        "key": definition.key,
        "items": len(trained.ids),
        "max_len": trained.model.max_len,
        "weights_sha256": trained.weights,
        "note": "items are rows of items.parquet, counted from 1; 0 is padding, on the right",
    }
