"""Models that are not part of seqbench: registered by other packages, or in a file of your own.

A package registers a model in its pyproject.toml:

    [project.entry-points."seqbench.models"]
    mymodel = "mypackage.models:MyModel"
"""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seqbench.errors import UsageError
from seqbench.models import ModelEntry

if TYPE_CHECKING:
    from seqbench.models.base import Model

GROUP = "seqbench.models"
FORM = "path/to/file.py:ClassName"


def installed() -> dict[str, metadata.EntryPoint]:
    """Return what other packages register, by name."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def from_package(name: str) -> ModelEntry:
    """Find the model that an installed package registers under a name.

    Its source is name and version of the package, and a hash of its code, which may be edited in place.
    """
    point = installed()[name]
    source = f"{_package(point)} {_hash(_package_code(point))}"
    return ModelEntry(name, name, source, lambda: _load_installed(point))


def is_file(reference: str) -> bool:
    """Tell a reference to a class in a file from a registered name."""
    return ":" in reference or reference.endswith(".py")


def file_of(reference: str) -> Path:
    """Return the file in a reference to a class in a file."""
    path, _ = _parts(reference)
    return path


def from_file(reference: str, taken: Collection[str]) -> ModelEntry:
    """Find the model in a file. Its source is a hash of the file, which is executed when the class is loaded.

    Args:
        reference: `path/to/file.py:ClassName`; or `path/to/file.py`, which is executed to see its only model.
        taken: names that a class must not have.

    Raises:
        UsageError: the file cannot be read, or the class has a name that is taken; or no class is named, and the file
            cannot be executed or has not exactly one model.
    """
    path, named = _parts(reference)
    code = _read(path)
    name = named or _only_model(_execute(path, code), path)
    if name in taken:
        raise UsageError(f"The class {name} in {path} has the name of a registered model.", hint="Rename the class.")
    return ModelEntry(name, f"{path}:{name}", _hash(code), lambda: _load_from_file(path, name, code))


def _load_installed(point: metadata.EntryPoint) -> "type[Model]":
    """Import the class of an entry point.

    Raises:
        UsageError: it cannot be imported, is no model, or another package registers the name, too.
    """
    where = f"Model {point.name} of the package {_package(point)}"
    others = {_package(each) for each in metadata.entry_points(group=GROUP, name=point.name)} - {_package(point)}
    if others:
        raise UsageError(f"{where} is registered by {', '.join(sorted(others))}, too.", hint="Uninstall one of them.")
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{where} cannot be imported: {type(error).__name__}: {error}.",
            hint="Repeat with SEQBENCH_DEBUG=1 for the traceback, or uninstall the package.",
        ) from error
    return _checked(found, f"{where} ({point.value})")


def _load_from_file(path: Path, name: str, code: bytes) -> "type[Model]":
    """Execute a file and take the class from it.

    Raises:
        UsageError: the file cannot be executed, or the class is not in it, or is no model.
    """
    module = _execute(path, code)
    if not hasattr(module, name):
        raise UsageError(f"{path} has no class {name}; {_there(module)}.", hint=f"--models takes {FORM}.")
    return _checked(getattr(module, name), f"{name} in {path}")


def _only_model(module: ModuleType, path: Path) -> str:
    """Return the name of the single model that a file defines."""
    found = _models_in(module)
    if len(found) != 1:
        raise UsageError(
            f"'{path}' does not say which class is the model; {_there(module)}.", hint=f"--models takes {FORM}."
        )
    return found[0]


def _models_in(module: ModuleType) -> list[str]:
    """Return the names of the models that a file defines itself; without those that lack a method."""
    from seqbench.models.base import Model

    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    return list(dict.fromkeys(each.__name__ for each in own if _is_class(each, Model) and not each.__abstractmethods__))


def _there(module: ModuleType) -> str:
    """Say which models a file has."""
    found = _models_in(module)
    return f"its models are {', '.join(found)}" if found else "there is no model in it"


def _package_code(point: metadata.EntryPoint) -> bytes:
    """Return the Python code of the package or module that an entry point is in."""
    spec = importlib.util.find_spec(point.module.partition(".")[0])
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    if spec and not folders and spec.origin:
        files = [Path(spec.origin)]
    return b"".join(_read(path) for path in files)


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"


def _parts(reference: str) -> tuple[Path, str | None]:
    """Split a reference into its file and its class, None if it names none."""
    if reference.endswith(".py"):
        return Path(reference).expanduser(), None
    path, _, name = reference.rpartition(":")
    if not path or not name.isidentifier():
        raise UsageError(f"'{reference}' does not say which class is the model.", hint=f"--models takes {FORM}.")
    return Path(path).expanduser(), name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.", hint=f"--models takes {FORM}.") from error


def _hash(code: bytes) -> str:
    return f"sha256:{hashlib.sha256(code).hexdigest()[:16]}"


@functools.cache
def _execute(path: Path, code: bytes) -> ModuleType:
    """Execute the very bytes that were hashed, once per process."""
    module = ModuleType(f"{path.stem} {_hash(code)}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for the module of a class
    try:
        exec(compile(code, path, "exec"), vars(module))  # noqa: S102  # the user's own file, as was asked for
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise UsageError(
            f"{path} cannot be executed: {type(error).__name__}: {error}{f' (line {line})' if line else ''}.",
            hint="Repeat with SEQBENCH_DEBUG=1 for the traceback.",
        ) from error
    return module


def _checked(found: Any, what: str) -> "type[Model]":
    from seqbench.models.base import CountingModel, ModelConfig, SequenceModel, TrainingConfig, require

    if not _is_class(found, (SequenceModel, CountingModel)):
        raise UsageError(
            f"{what} is not a model: it must be a class derived from SequenceModel or CountingModel.",
            hint="See 'Add a model' in CONTRIBUTING.md, and examples/mean_of_embeddings.py.",
        )
    if missing := sorted(found.__abstractmethods__):
        raise UsageError(f"{what} does not define {', '.join(missing)}.", hint="See seqbench/models/base.py.")
    try:
        require(
            _is_class(found.Config, ModelConfig) and dataclasses.is_dataclass(found.Config),
            "its Config must be a dataclass derived from ModelConfig",
        )
        kind = TrainingConfig if issubclass(found, SequenceModel) else type(None)
        require(
            isinstance(found.training_defaults, kind),
            "its training_defaults must be a TrainingConfig if it is a SequenceModel, and None if not",
        )
        inspect.signature(found.__init__).bind(None, 1, 1, found.Config())
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{what} cannot be made with its default Config as {found.__name__}(items, max_len, config): {error}.",
            hint="See seqbench/models/base.py, and examples/mean_of_embeddings.py.",
        ) from error
    result: type[Model] = found
    return result


def _is_class(value: Any, bases: Any) -> bool:
    return isinstance(value, type) and issubclass(value, bases)
