"""The smallest model that uses times: sums of embeddings, and of the logarithms of gaps."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqbench.models.base import IncrementalModel, ModelConfig, State, TrainingConfig
from seqbench.models.times import Times


@dataclass(frozen=True)
class TimedConfig(ModelConfig):
    ahead: bool = False  # a position sees the time of the item after it, whatever the protocol says

    @property
    def uses_times(self) -> bool:
        return True


class Timed(IncrementalModel):
    """State at p: Σ_{j ≤ p} (E[i_j] + g · log(1 + t_j - t_{j-1})) + r · log(1 + request_p - t_p)."""

    Config = TimedConfig
    training_defaults = TrainingConfig(epochs=2, batch_size=8)
    summary = "sums of embeddings and gaps"
    paper = "(test)"

    def __init__(self, items: int, max_len: int, config: TimedConfig) -> None:
        super().__init__(items, max_len, config)
        self.embedding = nn.Embedding(items + 1, 8)
        self.gap = nn.Parameter(torch.randn(8))
        self.wait = nn.Parameter(torch.randn(8))
        self.ahead = config.ahead

    def forward(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        assert times is not None
        gaps = times.events.diff(dim=1, prepend=times.events[:, :1])
        if self.ahead:
            gaps = gaps.roll(-1, dims=1)
        return (self.embedding(items) + self._log(gaps) * self.gap).cumsum(1) + self._waited(times)

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def initial_state(self, batch: int) -> State:
        return torch.zeros(batch, 8), torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.bool)

    def step(self, items: Tensor, state: State, times: Times | None = None) -> tuple[Tensor, State]:
        assert times is not None
        total, before, begun = state
        gaps = torch.where(begun, times.events - before, 0)
        total = total + self.embedding(items) + self._log(gaps) * self.gap
        return total + self._waited(times), (total, times.events, torch.ones_like(begun))

    def _waited(self, times: Times) -> Tensor:
        return self._log(times.requests - times.events) * self.wait

    @staticmethod
    def _log(seconds: Tensor) -> Tensor:
        return seconds.abs().add(1).log().unsqueeze(-1)
