"""A model of your own in one file: the mean of the embeddings of all items so far.

seqbench run --models examples/mean_of_embeddings.py,popularity
seqbench run --models examples/mean_of_embeddings.py --set MeanOfEmbeddings.dropout=0.5
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqbench.models.base import IncrementalModel, ModelConfig, State, TrainingConfig, require


@dataclass(frozen=True)
class MeanOfEmbeddingsConfig(ModelConfig):
    """What `--set MeanOfEmbeddings.FIELD=VALUE` can change."""

    hidden_size: int = 64
    dropout: float = 0.2

    def __post_init__(self) -> None:
        require(self.hidden_size >= 1, "hidden_size must be at least 1")
        require(0 <= self.dropout < 1, "dropout must be in [0, 1)")


class MeanOfEmbeddings(IncrementalModel):
    """State at position t: a linear map of the mean of E[i_1] … E[i_t]. Ignores the order of items."""

    Config = MeanOfEmbeddingsConfig
    training_defaults = TrainingConfig(learning_rate=3e-3)
    summary = "mean of item embeddings"
    paper = "(example)"

    def __init__(self, items: int, max_len: int, config: MeanOfEmbeddingsConfig) -> None:
        super().__init__(items, max_len, config)
        self.embedding = nn.Embedding(items + 1, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.mix = nn.Linear(config.hidden_size, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        sums = self.dropout(self.embedding(items)).cumsum(dim=1)
        counts = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=sums.dtype)
        return self.mix(sums / counts.unsqueeze(1))

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def initial_state(self, batch: int) -> State:
        """Return sum (B, D) and count (B, 1) of no items."""
        weight = self.embedding.weight
        return weight.new_zeros(batch, weight.shape[1]), weight.new_zeros(batch, 1)

    def step(self, items: Tensor, state: State) -> tuple[Tensor, State]:
        total, count = state[0] + self.embedding(items), state[1] + 1
        return self.mix(total / count), (total, count)
