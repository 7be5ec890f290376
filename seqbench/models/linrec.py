"""LinRec: linear attention for long histories, in the transformer of SASRec.

Liu, Cai, Zhang, Zhao, Gao, Wang, Lv, Fan, Wang, He, Liu, Li. "LinRec: Linear Attention Mechanism for Long-term
Sequential Recommender Systems", SIGIR 2023.
Official code: https://github.com/Applied-Machine-Learning-Lab/LinRec (layers.py, used in RecBole's sasrec.py).

    x = LayerNorm(E[i] + P[position])
    a = LayerNorm(W_o · linear attention(x) + b_o + x)        seqbench/ops/linear_attention.py
    x ← LayerNorm(W₂ gelu(W₁ a + b₁) + b₂ + a)

As published, a position sees all items of the row, those after it included, so that it is trained on prefixes. With
`causal` it sees those up to its own; then all positions can be trained at once (`objective`), and items appended at
a cost that does not depend on the history: the sums of k̂ᵀ v are the state. That form is not the paper's. Positions
count from the oldest item, so such a history ends at max_len items.

Departures from the official code:
- Padding is left out of the sums. There the mask is computed and ignored, so that the embeddings of padding and of its
  positions take part, those up to max_len in every row. `official_quirks` brings this back.
- A query or key whose ELU is exactly zero stays zero; there it gives NaN.
- Keys are normalised like queries, over the features of one position, as the code does. The paper has been read as
  normalising each feature of the keys over the sequence instead, which would also show the future to a causal form.
- Batches of 256 prefixes instead of 2048.

Shapes: B batch, T time, D width, E = D / heads, V items plus padding.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import IncrementalModel, ModelConfig, NeuralConfig, TrainingConfig, fill, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.linear_attention import LinearAttention
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True)
class LinRecConfig(NeuralConfig):
    """Defaults of the official code."""

    hidden_size: int = 128
    heads: int = 8
    inner_size: int = 256
    causal: bool = False  # a position sees the items up to its own instead of all
    official_quirks: bool = False  # padding up to max_len takes part in the sums

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.heads >= 1 and self.hidden_size % self.heads == 0, "heads must divide hidden_size")
        require(not (self.causal and self.official_quirks), "official_quirks has no causal form")


class State(NamedTuple):
    """How long the histories are, and per block the sum of k̂ᵀ v over them (B, heads, E, E)."""

    length: int
    sums: list[Tensor]


class LinRec(IncrementalModel):
    """Transformer with linear attention over item and position embeddings, scored with tied weights."""

    Config: ClassVar[type[ModelConfig]] = LinRecConfig
    training_defaults: ClassVar[TrainingConfig | None] = TrainingConfig(
        epochs=100, patience=10, batch_size=256, objective="prefix"
    )
    summary: ClassVar[str] = "linear attention"
    paper: ClassVar[str] = "Liu et al., SIGIR 2023"
    ends_at_max_len: ClassVar[bool] = True

    def __init__(self, items: int, max_len: int, config: LinRecConfig) -> None:
        super().__init__(items, max_len, config)
        D = config.hidden_size
        self.see_padding = config.official_quirks
        self.embedding = nn.Embedding(items + 1, D, padding_idx=0)
        self.positions = nn.Embedding(max_len, D)
        self.embedding_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(LinearAttentionBlock(config) for _ in range(config.layers))
        draw_normal(self.modules())

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        x, valid = self._input(items)
        for block in self.blocks:
            x = block(x, valid)
        return x[:, : items.shape[1]]

    def last_states(self, items: Tensor, lengths: Tensor) -> Tensor:
        x, valid = self._input(items)
        *before, final = list(self.blocks)
        for block in before:
            x = block(x, valid)
        return final(x, valid, lengths)

    def _input(self, items: Tensor) -> tuple[Tensor, Tensor | None]:
        """What enters the first block, (B, T, D), and the positions (B, T) that are seen; all of max_len if None."""
        if self.see_padding:
            items = fill(items, self.max_len)
        embedded = self.embedding(items) + self.positions.weight[: items.shape[1]]
        return self.dropout(self.embedding_norm(embedded)), None if self.see_padding else items > 0

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def initial_state(self, batch: int) -> State:
        """No items, and sums of zero."""
        return State(0, [cast(LinearAttentionBlock, block).attention.initial_state(batch) for block in self.blocks])

    def step(self, items: Tensor, state: State) -> tuple[Tensor, State]:
        length = state.length + 1
        if length > self.max_len:
            raise ValueError(f"LinRec with max_len {self.max_len} has no position for item {length} of a history")
        x = self.embedding_norm(self.embedding(items) + self.positions.weight[state.length])
        sums = []
        for block, before in zip(cast(list[LinearAttentionBlock], self.blocks), state.sums, strict=True):
            x, after = block.attention.step(x, before)
            x = block.feed_forward(x)
            sums.append(after)
        return x, State(length, sums)


class LinearAttentionBlock(nn.Module):
    """Linear attention and feed-forward layer, each with residual and LayerNorm."""

    def __init__(self, config: LinRecConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.attention = LinearAttention(
            D, heads=config.heads, dropout=config.dropout, causal=config.causal, norm_eps=LAYER_NORM_EPS
        )
        self.feed_forward = FeedForward(
            D, config.inner_size, F.gelu, dropout=config.dropout, inner_dropout=0.0, norm_eps=LAYER_NORM_EPS
        )

    def forward(self, x: Tensor, valid: Tensor | None, lengths: Tensor | None = None) -> Tensor:
        """(B, T, D) → (B, T, D); with the lengths (B,) of the rows, only at each one's last item: (B, D)."""
        return self.feed_forward(self.attention(x, valid, lengths))
