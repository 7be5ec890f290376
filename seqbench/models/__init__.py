"""The registry: one line per architecture. Importing it costs nothing; a model's module is loaded on use."""

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


def load_model(name: str) -> "type[Model]":
    """The class of a registered model.

    Raises:
        UsageError: no model has that name.
    """
    if name not in MODELS:
        raise unknown_name("Model", name, MODELS, "seqbench list models")
    module, _, attribute = MODELS[name].partition(":")
    return getattr(import_module(module), attribute)
