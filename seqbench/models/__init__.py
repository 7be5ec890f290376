"""The registry: one line per architecture. Importing it costs nothing; a model's module is loaded on use.

A reference says where a model is: its name here, the name under which another package registers it, or
`path/to/file.py:ClassName` for a file of the user's own (external.py).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from seqbench.errors import unknown_name

if TYPE_CHECKING:
    from seqbench.models.base import Model

MODELS = {
    "lrurec": "seqbench.models.lrurec:LRURec",
    "recblr": "seqbench.models.recblr:RecBLR",
    "glintru": "seqbench.models.glintru:GLINTRU",
    "linrec": "seqbench.models.linrec:LinRec",
    "sigma": "seqbench.models.sigma:SIGMA",
    "sasrec": "seqbench.models.sasrec:SASRec",
    "gru4rec": "seqbench.models.gru4rec:GRU4Rec",
    "mamba4rec": "seqbench.models.mamba4rec:Mamba4Rec",
    "markov": "seqbench.models.markov:Markov",
    "popularity": "seqbench.models.popularity:Popularity",
}


def model_names() -> list[str]:
    """All registered models: ours, then those of other packages."""
    from seqbench.models import external

    return [*MODELS, *sorted(set(external.installed()) - set(MODELS))]


def load_model(reference: str) -> "type[Model]":
    """The class that a reference means.

    Raises:
        UsageError: no model has that name, or what has it is no model.
    """
    if reference in MODELS:
        module, _, attribute = MODELS[reference].partition(":")
        return getattr(import_module(module), attribute)
    from seqbench.models import external

    if external.is_file(reference):
        return external.load_from_file(reference)
    if reference in external.installed():
        return external.load_installed(reference)
    raise unknown_name("Model", reference, model_names(), "seqbench list models")


def model_name(reference: str) -> str:
    """What a model is called in results: its registered name, or the name of its class.

    Raises:
        UsageError: a class has the name of a registered model.
    """
    from seqbench.models import external

    return external.class_name(reference, taken=model_names()) if external.is_file(reference) else reference


def model_source(reference: str) -> str | None:
    """What stands for the code of a model that is not part of seqbench: hash of its file, or package and version.

    Raises:
        UsageError: there is no such file.
    """
    from seqbench.models import external

    if reference in MODELS:
        return None
    return external.file_source(reference) if external.is_file(reference) else external.package_source(reference)
