"""Models that are not part of seqbench: registered by other packages, or in a file of the user's own.

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

if TYPE_CHECKING:
    from seqbench.models.base import Model

GROUP = "seqbench.models"
FORM = "path/to/file.py:ClassName"


def installed() -> dict[str, metadata.EntryPoint]:
    """What other packages register, by name."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def load_installed(name: str) -> "type[Model]":
    """The class of an installed entry point.

    Raises:
        UsageError: it cannot be imported, or is no model.
    """
    point = installed()[name]
    where = f"Model {name} of the package {_package(point)}"
    others = {_package(each) for each in metadata.entry_points(group=GROUP, name=name)} - {_package(point)}
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


def package_source(name: str) -> str:
    """Name and version of the package that registers a model, and a hash of its code, which may be edited in place."""
    point = installed()[name]
    spec = importlib.util.find_spec(point.module.partition(".")[0])
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    if spec and not folders and spec.origin:
        files = [Path(spec.origin)]
    return f"{_package(point)} {_hash(b''.join(_read(path) for path in files))}"


def is_file(reference: str) -> bool:
    """Whether a reference means a class in a file and not a registered name."""
    return ":" in reference or reference.endswith(".py")


def class_name(reference: str, taken: Collection[str]) -> str:
    """The class in a reference to a file.

    Raises:
        UsageError: there is none, or its name is taken by a registered model.
    """
    path, name = _parts(reference)
    if name in taken:
        raise UsageError(f"The class {name} in {path} has the name of a registered model.", hint="Rename the class.")
    return name


def file_source(reference: str) -> str:
    """A hash of the file.

    Raises:
        UsageError: it cannot be read.
    """
    return _hash(_read(_parts(reference)[0]))


def load_from_file(reference: str) -> "type[Model]":
    """Execute the file and take the class from it.

    Raises:
        UsageError: the file cannot be read or executed, or the class is not in it, or is no model.
    """
    from seqbench.models.base import Model

    path, name = _parts(reference)
    module = _execute(path, _read(path))
    if not hasattr(module, name):
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        found = [value.__name__ for value in own if _is_class(value, Model)]
        there = f"its models are {', '.join(found)}" if found else "there is no model in it"
        raise UsageError(f"{path} has no class {name}; {there}.", hint=f"--models takes {FORM}.")
    return _checked(getattr(module, name), f"{name} in {path}")


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"


def _parts(reference: str) -> tuple[Path, str]:
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
    """The very bytes that were hashed, once per process."""
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
    return found


def _is_class(value: Any, bases: Any) -> bool:
    return isinstance(value, type) and issubclass(value, bases)
