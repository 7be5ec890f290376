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

    A subclass gives the blocks, modules from (B, T, D), a state, or None for that of no items, and the lengths (B,) of
    the rows if only the state at each one's last item is wanted, to (B, T, D) or (B, D) and the state after the last
    position; `initial_state`, a list of one state per block; and the initial weights.
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

    def last_states(self, items: Tensor, lengths: Tensor) -> Tensor:
        return self._encode(items, [None] * len(self.blocks), lengths)[0]

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def step(self, items: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        states, after = self._encode(items.unsqueeze(1), state)
        return states.squeeze(1), after

    def _encode(self, items: Tensor, before: list[Any], lengths: Tensor | None = None) -> tuple[Tensor, list[Any]]:
        """States of items (B, T) that follow what the blocks' states know, and the blocks' states then.

        States are (B, T, D), or with the lengths (B,) of the rows only those at each one's last item, (B, D).
        """
        x = self.embedding_norm(self.dropout(self.embedding(items)))
        after = []
        for block, state in zip(self.blocks, before, strict=True):
            x, state = block(x, state, lengths if block is self.blocks[-1] else None)
            after.append(state)
        return x, after
