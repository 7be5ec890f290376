"""SASRec: self-attentive sequential recommendation, the yardstick of the field.

Kang, McAuley. "Self-Attentive Sequential Recommendation", ICDM 2018; in the form of RecBole 1.2.1
(https://github.com/RUCAIBox/RecBole, sasrec.py), which the compared papers use as their baseline: post-norm,
learned positions from the oldest item, GELU, full softmax.

    x = LayerNorm(E[i] + P[position])
    a = LayerNorm(W_o · attention(x) + b_o + x)               causal, scaled dot product
    x ← LayerNorm(W₂ gelu(W₁ a + b₁) + b₂ + a)

Departures: trained on all positions of a sequence at once instead of on every prefix by itself; the attention is
causal, so the targets are the same, and so are their contexts, but that in sequences longer than max_len they are
shorter after a cut. Batches of 32 sequences instead of 2048 prefixes, patience 20 instead of 10, 200 epochs instead of
300 (TrainingConfig). The loss of the paper itself is `loss` "bce" with one negative, which here may be another item of
the user's.

In steps, keys and values of the items so far are kept. Positions count from the oldest item, so a history ends at
max_len items: without the oldest, every position would change, and with them all keys and values. The caller then
starts anew from the items that it wants to keep.

Shapes: B batch, T time, D width, E = D / heads, V items plus padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import IncrementalModel, ModelConfig, NeuralConfig, TrainingConfig, at_last, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.ops.attention import causal_attention
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True)
class SASRecConfig(NeuralConfig):
    """RecBole's defaults."""

    dropout: float = 0.5  # on embeddings and on both residual branches
    attention_dropout: float = 0.5  # on attention probabilities
    heads: int = 2
    inner_size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.attention_dropout < 1, "attention_dropout must be in [0, 1)")
        require(self.heads >= 1 and self.hidden_size % self.heads == 0, "heads must divide hidden_size")


class Cache(NamedTuple):
    """Keys and values of one block, in buffers that have room for max_len items; only the first `length` count."""

    keys: Tensor  # (B, heads, max_len, E)
    values: Tensor
    length: int

    def append(self, keys: Tensor, values: Tensor) -> "Cache":
        """With the next (B, heads, T, E), written into the same buffers: to copy them takes longer than to attend."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        return self._replace(length=end)


class SASRec(IncrementalModel):
    """Causal transformer over item and position embeddings, scored with tied weights."""

    Config: ClassVar[type[ModelConfig]] = SASRecConfig
    training_defaults: ClassVar[TrainingConfig | None] = TrainingConfig()
    # The paper has one rate for all of its dropouts, and lowers it where the data is dense.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {"dropout": 0.2, "attention_dropout": 0.2},
        "amazon-beauty-sasrec": {"dropout": 0.5, "attention_dropout": 0.5},
        "amazon-video-games-sasrec": {"dropout": 0.5, "attention_dropout": 0.5},
        "steam": {"dropout": 0.5, "attention_dropout": 0.5},
    }
    summary: ClassVar[str] = "softmax attention"
    paper: ClassVar[str] = "Kang and McAuley, ICDM 2018"
    state_grows: ClassVar[bool] = True
    ends_at_max_len: ClassVar[bool] = True

    def __init__(self, items: int, max_len: int, config: SASRecConfig) -> None:
        super().__init__(items, max_len, config)
        D = config.hidden_size
        self.heads = config.heads
        self.embedding = nn.Embedding(items + 1, D)
        self.positions = nn.Embedding(max_len, D)
        self.embedding_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(AttentionBlock(config) for _ in range(config.layers))
        draw_normal(self.modules())

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        return self._encode(items, [None] * len(self.blocks))[0]

    def last_states(self, items: Tensor, lengths: Tensor) -> Tensor:
        return self._encode(items, [None] * len(self.blocks), lengths)[0]

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def initial_state(self, batch: int) -> list[Cache]:
        """An empty cache per block."""
        weight = self.embedding.weight
        shape = (batch, self.heads, self.max_len, weight.shape[1] // self.heads)
        return [Cache(weight.new_zeros(shape), weight.new_zeros(shape), 0) for _ in self.blocks]

    def step(self, items: Tensor, state: list[Cache]) -> tuple[Tensor, list[Cache]]:
        states, after = self._encode(items.unsqueeze(1), state)
        return states.squeeze(1), after

    def prefill(self, items: Tensor) -> list[Cache]:
        return self._encode(items, self.initial_state(len(items)))[1]

    def _encode(
        self, items: Tensor, caches: Sequence[Cache | None], lengths: Tensor | None = None
    ) -> tuple[Tensor, list[Cache]]:
        """States of items that follow those in the caches, if there are caches, and the caches after them.

        States are (B, T, D), or with the lengths (B,) of the rows only those at each one's last item, (B, D).
        """
        start = caches[0].length if caches[0] is not None else 0
        end = start + items.shape[1]
        if end > self.max_len:
            raise ValueError(f"SASRec with max_len {self.max_len} has no position for item {end} of a history")
        x = self.dropout(self.embedding_norm(self.embedding(items) + self.positions.weight[start:end]))
        after = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block(x, cache, lengths if block is self.blocks[-1] else None)
            after.append(cache)
        return x, after


class AttentionBlock(nn.Module):
    """Causal attention and feed-forward layer, each with residual and LayerNorm.

    Padding needs no mask where every position asks: it is on the right, where a causal query never looks.
    """

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads = config.heads
        self.attention_dropout = config.attention_dropout
        self.qkv = nn.Linear(D, 3 * D)  # rows: queries, keys, values
        self.attention_out = nn.Linear(D, D)
        self.attention_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(
            D, config.inner_size, F.gelu, dropout=config.dropout, inner_dropout=0.0, norm_eps=LAYER_NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, cache: Cache | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Cache | None]:
        """(B, T, D) → (B, T, D), with the cache: a whole history into an empty one, or the one item that follows.

        With the lengths (B,) of the rows only each one's last item asks: (B, D).
        """
        if lengths is not None:
            return self._last(x, lengths), cache
        query, key, value = self._split(self.qkv(x), 3)
        if cache is not None:
            cache = cache.append(key, value)
            key, value = cache.keys[:, :, : cache.length], cache.values[:, :, : cache.length]
        attended = causal_attention(query, key, value, dropout=self.attention_dropout, training=self.training)
        return self._close(attended, x), cache

    def _last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) → (B, D), at the last item of rows of lengths (B,)."""
        D = x.shape[-1]
        asking = at_last(x, lengths).unsqueeze(1)
        weight, bias = self.qkv.weight, self.qkv.bias
        (query,) = self._split(F.linear(asking, weight[:D], bias[:D]), 1)
        key, value = self._split(F.linear(x, weight[D:], bias[D:]), 2)
        attended = causal_attention(
            query, key, value, dropout=self.attention_dropout, training=self.training, lengths=lengths
        )
        return self._close(attended, asking).squeeze(1)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts · D) → that many (B, heads, T, D / heads)."""
        return projected.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def _close(self, attended: Tensor, x: Tensor) -> Tensor:
        """What follows the attention (B, heads, T, D / heads), position by position: (B, T, D)."""
        mixed = self.attention_out(attended.transpose(1, 2).flatten(-2))
        return self.feed_forward(self.attention_norm(self.dropout(mixed) + x))
