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

In steps, keys and values of the items so far are kept. A history ends at max_len items (seqbench/models/stack.py).

Shapes: B batch, T time, D width, E = D / heads, V items plus padding.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import NeuralConfig, State, TrainingConfig, at_last, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.stack import Block, PositionedStack
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


class SASRec(PositionedStack):
    """Causal transformer over item and position embeddings, scored with tied weights."""

    Config = SASRecConfig
    training_defaults = TrainingConfig()
    # The paper has one rate for all of its dropouts, and lowers it where the data is dense.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {"dropout": 0.2, "attention_dropout": 0.2},
        "amazon-beauty-sasrec": {"dropout": 0.5, "attention_dropout": 0.5},
        "amazon-video-games-sasrec": {"dropout": 0.5, "attention_dropout": 0.5},
        "steam": {"dropout": 0.5, "attention_dropout": 0.5},
    }
    display_name = "SASRec"
    summary = "softmax attention"
    paper = "Kang and McAuley, ICDM 2018"
    state_grows = True

    def __init__(self, items: int, max_len: int, config: SASRecConfig) -> None:
        blocks = (AttentionBlock(config, max_len) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=LAYER_NORM_EPS)
        draw_normal(self.modules())


class AttentionBlock(Block):
    """Causal attention and feed-forward layer, each with residual and LayerNorm.

    Padding needs no mask where every position asks: it is on the right, where a causal query never looks.
    """

    def __init__(self, config: SASRecConfig, max_len: int) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads = config.heads
        self.max_len = max_len
        self.attention_dropout = config.attention_dropout
        self.qkv = nn.Linear(D, 3 * D)  # rows: queries, keys, values
        self.attention_out = nn.Linear(D, D)
        self.attention_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(
            D, config.inner_size, F.gelu, dropout=config.dropout, inner_dropout=0.0, norm_eps=LAYER_NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def mix(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Attend from every position of x (B, T, D): (B, T, D), not yet projected, and the state with x.

        The state is the keys and the values of `seen` (B,) items, in buffers (B, heads, max_len, E) that are written
        in place: copying them would take longer than to attend. x is a whole history, or the one item that follows.
        """
        query, key, value = self._split(self.qkv(x), 3)
        if state is None or seen is None:
            return self._attend(query, key, value, None), ()
        keys, values = state
        T = x.shape[1]
        if T > 1:  # nothing was seen before
            keys[:, :, :T], values[:, :, :T] = key, value
            return self._attend(query, key, value, None), state
        rows = torch.arange(len(x), device=x.device)
        for buffer, new in zip(state, (key, value), strict=True):
            buffer[rows, :, seen] = new.squeeze(2).to(buffer.dtype)
        if torch.compiler.is_compiling() or len(x) == 0:  # a graph has no numbers to look at
            return self._attend(query, keys, values, seen + 1), state
        shortest, longest = map(int, seen.aminmax())
        filled = slice(longest + 1)
        lengths = None if shortest == longest else seen + 1
        return self._attend(query, keys[:, :, filled], values[:, :, filled], lengths), state

    def mix_last(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from the last items alone: x (B, T, D) → x (B, D) there, and what they attend to (B, D)."""
        D = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        last = at_last(x, lengths)
        (query,) = self._split(F.linear(last.unsqueeze(1), weight[:D], bias[:D]), 1)
        key, value = self._split(F.linear(x, weight[D:], bias[D:]), 2)
        return last, self._attend(query, key, value, lengths).squeeze(1)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Project, add and normalise, feed forward: (…, D) each → (…, D)."""
        result: Tensor = self.feed_forward(self.attention_norm(self.dropout(self.attention_out(mixed)) + x))
        return result

    def initial_state(self, batch: int) -> State:
        """Return empty buffers (B, heads, max_len, E) of keys and values."""
        weight = self.attention_out.weight
        shape = (batch, self.heads, self.max_len, len(weight) // self.heads)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
        """Return softmax attention with the heads side by side, (B, T, D), of queries (B, heads, T, E)."""
        attended = causal_attention(
            query, key, value, dropout=self.attention_dropout, training=self.training, lengths=lengths
        )
        return attended.transpose(1, 2).flatten(-2)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, T, parts · D) into that many (B, heads, T, E)."""
        result: tuple[Tensor, ...] = projected.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return result
