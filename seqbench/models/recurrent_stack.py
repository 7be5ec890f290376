"""What LRURec, RecBLR and Mamba4Rec have in common: everything around their blocks.

    x = LayerNorm(E[i]), then x ← block(x) for every block; scored against E

Shapes: B batch, T time, D width, V items plus padding.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from seqbench.models.base import IncrementalModel, NeuralConfig
from seqbench.ops.dropout import Dropout


class RecurrentStack(IncrementalModel):
    """A stack of recurrent blocks over item embeddings, scored with tied weights.

    A subclass gives the blocks, modules from (B, T, D) and a state, or None for that of no items, to (B, T, D) and the
    state after the last item; `initial_state`, a list of one state per block; and the initial weights.
    """

    def __init__(
        self, items: int, max_len: int, config: NeuralConfig, blocks: Iterable[nn.Module], *, norm_eps: float
    ) -> None:
        super().__init__(items, max_len, config)
        self.embedding = nn.Embedding(items + 1, config.hidden_size)
        self.embedding_norm = nn.LayerNorm(config.hidden_size, eps=norm_eps)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        return self._encode(items, [None] * len(self.blocks))[0]

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def step(self, items: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        states, after = self._encode(items.unsqueeze(1), state)
        return states.squeeze(1), after

    def _encode(self, items: Tensor, before: list[Any]) -> tuple[Tensor, list[Any]]:
        """States (B, T, D) of items (B, T) that follow what the blocks' states know, and the blocks' states then."""
        x = self.embedding_norm(self.dropout(self.embedding(items)))
        after = []
        for block, state in zip(self.blocks, before, strict=True):
            x, state = block(x, state)
            after.append(state)
        return x, after
