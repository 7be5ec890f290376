"""Mamba4Rec: selective state spaces for sequential recommendation.

Liu, Lin, Wang, Liu, Caverlee. "Mamba4Rec: Towards Efficient Sequential Recommendation with Selective State Space
Models", 2024, arXiv 2403.03900. Official code: https://github.com/chengkai-liu/Mamba4Rec (mamba4rec.py).

    x = LayerNorm(E[i])
    u = LayerNorm(Mamba(x))                with one layer;  LayerNorm(Mamba(x) + x) when layers are stacked
    x ← LayerNorm(W₂ gelu(W₁ u + b₁) + b₂ + u)

A single layer, the setting that the authors chose, has no residual around the Mamba block: the code says that this is
meant, so it is kept.

Departures from the official code:
- The Mamba block keeps its own initialisation, with step sizes softplus(b_Δ) between 0.001 and 0.1. There the
  initialiser of the whole model reaches into the block: all its matrices are drawn with a standard deviation of 0.02
  and b_Δ becomes 0, so that every step starts near ln 2, although Mamba marks b_Δ as not to be touched.
  `official_quirks` does the same.
- Trained on all positions of a sequence at once instead of on every prefix by itself; the network is causal, so the
  targets are the same, and so are their contexts, but that in sequences longer than max_len they are shorter after a
  cut.
- Batches of 32 sequences instead of 2048 prefixes, patience 20 instead of 10 (TrainingConfig).

Shapes: B batch, T time, D width, V items plus padding; the Mamba block's in its own file.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import NeuralConfig, State, TrainingConfig, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.mamba import NO_WEIGHT_DECAY, Mamba
from seqbench.models.stack import Block, RecurrentStack
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True)
class Mamba4RecConfig(NeuralConfig):
    """Defaults of the paper, but for dropout, which it tunes per data set."""

    layers: int = 1
    dropout: float = 0.2
    d_state: int = 32  # states per channel
    d_conv: int = 4  # width of the convolution
    expand: int = 2  # channels per unit of hidden_size
    official_quirks: bool = False  # initialise the Mamba block as the official code does

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.d_state >= 1, "d_state must be at least 1")
        require(self.d_conv >= 1, "d_conv must be at least 1")
        require(self.expand >= 1, "expand must be at least 1")


class Mamba4Rec(RecurrentStack):
    """Mamba blocks and feed-forward layers over item embeddings, scored with tied weights."""

    Config = Mamba4RecConfig
    training_defaults = TrainingConfig()
    presets: ClassVar[dict[str, dict[str, Any]]] = {"ml-1m": {"dropout": 0.2}, "amazon-beauty": {"dropout": 0.4}}
    no_weight_decay = (*RecurrentStack.no_weight_decay, *NO_WEIGHT_DECAY)
    display_name = "Mamba4Rec"
    summary = "selective state spaces (Mamba)"
    paper = "Liu et al., arXiv 2403.03900"

    def __init__(self, items: int, max_len: int, config: Mamba4RecConfig) -> None:
        blocks = (MambaLayer(config) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=LAYER_NORM_EPS)
        inside = ".mamba."  # of a Mamba block, which has its own initialisation
        draw_normal(each for name, each in self.named_modules() if config.official_quirks or inside not in name)


class MambaLayer(Block):
    """Mamba block and feed-forward layer, each with LayerNorm and, but for a lone Mamba block, residual."""

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.residual = config.layers > 1
        self.mamba = Mamba(D, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)
        self.mamba_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(
            D, 4 * D, F.gelu, dropout=config.dropout, inner_dropout=config.dropout, norm_eps=LAYER_NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def mix(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run the Mamba block: x (B, T, D) and its state before → (B, T, D) and its state after."""
        return self.mamba.mix(x, state, lengths)

    def mix_last(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the Mamba block for the last items alone: x (B, T, D) → (B, D) each."""
        return self.mamba.mix_last(x, lengths)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Normalise, with a residual where layers are stacked, and feed forward: (…, D) each → (…, D)."""
        mixed = self.dropout(mixed)
        result: Tensor = self.feed_forward(self.mamba_norm(mixed + x if self.residual else mixed))
        return result

    def initial_state(self, batch: int) -> State:
        """Return the Mamba block's state before the first item."""
        return self.mamba.initial_state(batch)
