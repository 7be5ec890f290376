"""gSASRec: SASRec trained with generalised binary cross entropy over many negatives.

Petrov, Macdonald. "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative Sampling",
RecSys 2023; settings of the authors' port to PyTorch (https://github.com/asash/gSASRec-pytorch), which also has the
figures for MovieLens 1M, with sequences of 200 items (`--max-len 200`).

The network is that of `sasrec`; all that differs is defaults: the loss, the size and the rates.

Departures: the layers are RecBole's, with a LayerNorm behind every branch and GELU, where the port has one in front of
each and nothing between the maps of the feed-forward layer; epochs are passes over the data, not 100 batches, with the
patience that all models here have. A negative may be another item of the user's, there too.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from seqbench.models.base import TrainingConfig
from seqbench.models.sasrec import SASRec, SASRecConfig


@dataclass(frozen=True)
class GSASRecConfig(SASRecConfig):
    """The port's settings; of its dropout those for MovieLens 1M."""

    hidden_size: int = 256
    layers: int = 3
    heads: int = 1
    dropout: float = 0.1
    attention_dropout: float = 0.1


class GSASRec(SASRec):
    """SASRec with other defaults."""

    Config = GSASRecConfig
    training_defaults = TrainingConfig(batch_size=128, loss="gbce", negatives=256, calibration=0.75)
    presets: ClassVar[dict[str, dict[str, Any]]] = {"ml-1m": {"hidden_size": 128, "inner_size": 128}}
    display_name = "gSASRec"
    summary = "SASRec, many negatives"
    paper = "Petrov and Macdonald, RecSys 2023"
