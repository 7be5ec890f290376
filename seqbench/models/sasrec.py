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

Shapes: B batch, T time, D width, V items plus padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.attention import SelfAttention
from seqbench.models.base import SPACE, NeuralConfig, TrainingConfig, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.stack import PositionedStack
from seqbench.ops.dropout import Dropout
from seqbench.tuning.dimensions import Dimension, Range

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
    space: ClassVar[Mapping[str, Dimension]] = SPACE | {"attention_dropout": Range(0.0, 0.8)}
    display_name = "SASRec"
    summary = "softmax attention"
    paper = "Kang and McAuley, ICDM 2018"
    state_grows = True

    def __init__(self, items: int, max_len: int, config: SASRecConfig) -> None:
        blocks = (AttentionBlock(config, max_len) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=LAYER_NORM_EPS)
        draw_normal(self.modules())


class AttentionBlock(SelfAttention):
    """Causal attention and feed-forward layer, each with residual and LayerNorm."""

    def __init__(self, config: SASRecConfig, max_len: int) -> None:
        D = config.hidden_size
        super().__init__(D, heads=config.heads, max_len=max_len, dropout=config.attention_dropout)
        self.attention_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(
            D, config.inner_size, F.gelu, dropout=config.dropout, inner_dropout=0.0, norm_eps=LAYER_NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Project, add and normalise, feed forward: (…, D) each → (…, D)."""
        result: Tensor = self.feed_forward(self.attention_norm(self.dropout(self.attention_out(mixed)) + x))
        return result
