"""Popularity: every user gets the most frequent training items. The floor of every table."""

import numpy as np
import torch
from torch import Tensor

from seqbench.data.sequences import Sequences
from seqbench.models.base import CountingModel, ModelConfig


class Popularity(CountingModel):
    """Score of an item = its number of training interactions."""

    display_name = "Popularity"
    summary = "training counts"
    paper = "(baseline)"

    def __init__(self, items: int, max_len: int, config: ModelConfig) -> None:
        super().__init__(items, max_len, config)
        self.register_buffer("counts", torch.zeros(items + 1))
        self.counts: Tensor

    def fit(self, sequences: Sequences) -> None:
        counts = np.bincount(sequences.training_items(), minlength=self.items + 1)
        self.counts.copy_(torch.from_numpy(counts))

    def score(self, items: Tensor, lengths: Tensor) -> Tensor:
        return self.counts.expand(len(items), -1)
