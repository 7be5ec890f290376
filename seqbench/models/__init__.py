"""The registry of models: one line per architecture. Importing it costs nothing; a model's module is loaded on use.

A reference says where a model is: its name here, the name under which another package registers it, or a file of your
own (external.py), as `path/to/file.py:ClassName`, or `path/to/file.py` if it defines a single model.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from seqbench.errors import unknown_name
from seqbench.registry import Registry

if TYPE_CHECKING:
    from seqbench.models.base import Model

LISTING = "seqbench list models"

MODELS: "Registry[type[Model]]" = Registry(
    "Model",
    {
        "lrurec": "seqbench.models.lrurec:LRURec",
        "recblr": "seqbench.models.recblr:RecBLR",
        "glintru": "seqbench.models.glintru:GLINTRU",
        "linrec": "seqbench.models.linrec:LinRec",
        "sigma": "seqbench.models.sigma:SIGMA",
        "sasrec": "seqbench.models.sasrec:SASRec",
        "gsasrec": "seqbench.models.gsasrec:GSASRec",
        "esasrec": "seqbench.models.esasrec:ESASRec",
        "hstu": "seqbench.models.hstu:HSTU",
        "gru4rec": "seqbench.models.gru4rec:GRU4Rec",
        "mamba4rec": "seqbench.models.mamba4rec:Mamba4Rec",
        "tim4rec": "seqbench.models.tim4rec:TiM4Rec",
        "retnet": "seqbench.models.retnet:RetNet",
        "markov": "seqbench.models.markov:Markov",
        "popularity": "seqbench.models.popularity:Popularity",
    },
    LISTING,
)


@dataclass(frozen=True)
class ModelEntry:
    """Where a model comes from, and what it is called: found once, asked by all that deal with it."""

    name: str  # in results and options: the registered name, or that of the class
    reference: str  # what finds it again, in another process too
    source: str | None  # stands for code that is not seqbench's: hash of the file, or package and version
    load: "Callable[[], type[Model]]" = field(repr=False, compare=False)

    @cached_property
    def cls(self) -> "type[Model]":
        """Return the class, imported on first use.

        Raises:
            UsageError: it cannot be imported, or is no model.
        """
        return self.load()

    @property
    def display(self) -> str:
        """Return the name for people: as papers print it, or that of the class."""
        return self.cls.display_name or self.cls.__name__


def model_names() -> list[str]:
    """Return the names of all registered models: ours, then those of other packages."""
    from seqbench.models import external

    return [*MODELS, *sorted(set(external.installed()) - set(MODELS))]


def find_model(reference: str) -> ModelEntry:
    """Find the model that a reference means. Its class is not loaded, but where a file does not name one.

    Raises:
        UsageError: no model has that name, or a class has the name of a registered model; or no class is named, and the
            file has not exactly one model.
    """
    if reference in MODELS:
        return ModelEntry(reference, reference, None, lambda: MODELS[reference])
    from seqbench.models import external

    if external.is_file(reference):
        return external.from_file(reference, taken=model_names())
    if reference in external.installed():
        return external.from_package(reference)
    raise unknown_name("Model", reference, model_names(), LISTING)


def load_model(reference: str) -> "type[Model]":
    """Return the class that a reference means.

    Raises:
        UsageError: as `find_model`, or what has that name is no model.
    """
    return find_model(reference).cls
