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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.models.base import NeuralConfig, State, TrainingConfig, fill, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.linear_attention import LinearAttention
from seqbench.models.stack import Block, PositionedStack
from seqbench.models.times import Times

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


class LinRec(PositionedStack):
    """Transformer with linear attention over item and position embeddings, scored with tied weights."""

    Config = LinRecConfig
    training_defaults = TrainingConfig(epochs=100, patience=10, batch_size=256, objective="prefix")
    display_name = "LinRec"
    summary = "linear attention"
    paper = "Liu et al., SIGIR 2023"

    def __init__(self, items: int, max_len: int, config: LinRecConfig) -> None:
        blocks = (LinearAttentionBlock(config) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=LAYER_NORM_EPS)
        self.see_padding = config.official_quirks
        draw_normal(self.modules())

    def enter(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if self.see_padding:
            return self.embed(fill(items, self.max_len)), {}
        return self.embed(items), {"valid": items > 0}

    def forward(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        return super().forward(items, lengths, times)[:, : items.shape[1]]


class LinearAttentionBlock(Block):
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

    def mix(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        state: State | None = None,
        lengths: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Attend from every position: x (B, T, D), valid (B, T) → (B, T, D), and the sum of k̂ᵀ v if one was given."""
        if lengths is not None:
            valid = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        return self.attention.mix(x, valid, state)

    def mix_last(self, x: Tensor, lengths: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from the last items alone: x (B, T, D) → (B, D) each."""
        return self.attention.mix_last(x, lengths, valid)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Finish the attention, feed forward: (…, D) each → (…, D)."""
        result: Tensor = self.feed_forward(self.attention.finish(x, mixed))
        return result

    def initial_state(self, batch: int) -> State:
        """Return the sum of k̂ᵀ v (B, heads, E, E) over no positions."""
        return self.attention.initial_state(batch)
