"""eSASRec: a SASRec that takes the best parts of later work: LiGR layers, a sampled softmax, positions from the newest.

Tikhonovich, Zelenskiy, Petrov, Klenitskiy. "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion",
RecSys 2025; in the form of RecTools 0.19 (https://github.com/MobileTeleSystems/RecTools, sasrec.py and ligr.py), with
the settings of the authors' benchmark (https://github.com/blondered/transformer_benchmark).

    x = E[i] + P[n - 1 - p]                                  p of n items: position 0 is the newest item
    a = W_o · attention(LN₁(x)) + b_o                        causal, scaled dot product
    u = x + σ(G₁ x + g₁) ⊙ a
    x ← u + σ(G₂ u + g₂) ⊙ W₂(silu(W₁ y) ⊙ W₃ y)             y = LN₂(u)

Scores are products with E. Row 0 of E, the padding, is drawn like the others and stays as it was drawn, in the softmax
over the whole catalogue too.

`positions` "oldest" counts from the oldest item instead, as SASRec does; only then can histories be carried on in
steps, and is the state at an inner position that of the items up to it scored alone.

Departures: batches hold about as many targets as 128 rows have on average, not 128 rows; the loss is the mean over all
targets (RecTools leaves those out whose loss is 0 in float32); the epoch is chosen by the protocol's metric.

Shapes: B batch, T time, D width, V items plus padding.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.attention import SelfAttention
from seqbench.models.base import NeuralConfig, TrainingConfig, require, require_one_of
from seqbench.models.initialise import draw_xavier, keep_padding
from seqbench.models.stack import POSITIONS, PositionedStack
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class ESASRecConfig(NeuralConfig):
    """The benchmark's settings for MovieLens 1M; the presets have those for other data."""

    dropout: float = 0.1  # on embeddings, attention probabilities, both branches, and inside the feed-forward layer
    heads: int = 1
    inner_factor: int = 4  # width of the feed-forward layer in D
    positions: str = "newest"  # from which item positions count; from the "oldest" it can also be carried on in steps

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.heads >= 1 and self.hidden_size % self.heads == 0, "heads must divide hidden_size")
        require(self.inner_factor >= 1, "inner_factor must be at least 1")
        require_one_of(self.positions, POSITIONS, "positions")


AMAZON: dict[str, Any] = {"hidden_size": 256, "layers": 1, "dropout": 0.2, "epochs": 200}


class ESASRec(PositionedStack):
    """Causal transformer of LiGR layers over item and position embeddings, scored with tied weights."""

    Config = ESASRecConfig
    training_defaults = TrainingConfig(
        epochs=100, patience=50, batch_size=128, loss="uncorrected-softmax", negatives=256, beta2=0.98
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {},
        "ml-20m": {"hidden_size": 256, "layers": 4, "heads": 8, "dropout": 0.2},
        "amazon-beauty": AMAZON,
        "amazon-sports": AMAZON | {"inner_factor": 2},
        "amazon-toys": AMAZON | {"inner_factor": 1},
    }
    display_name = "eSASRec"
    summary = "gated softmax attention"
    paper = "Tikhonovich et al., RecSys 2025"
    state_grows = True

    def __init__(self, items: int, max_len: int, config: ESASRecConfig) -> None:
        blocks = (LiGRBlock(config, max_len) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=None)
        draw_xavier(self)
        keep_padding(self.embedding)


class LiGRBlock(SelfAttention):
    """Attention and a gated feed-forward layer, each behind a LayerNorm and in front of a gate.

    Borisyuk et al. "From Features to Transformers: Redefining Ranking for Scalable Impact", 2025.
    """

    def __init__(self, config: ESASRecConfig, max_len: int) -> None:
        D = config.hidden_size
        super().__init__(D, heads=config.heads, max_len=max_len, dropout=config.dropout)
        inner = config.inner_factor * D
        self.attention_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)  # LN₁
        self.feed_forward_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)  # LN₂
        self.attention_gate = nn.Linear(D, D)  # G₁
        self.feed_forward_gate = nn.Linear(D, D)  # G₂
        self.activated = nn.Linear(D, inner, bias=False)  # W₁
        self.multiplied = nn.Linear(D, inner, bias=False)  # W₃
        self.outer = nn.Linear(inner, D, bias=False)  # W₂
        self.attention_out_dropout = Dropout(config.dropout)
        self.inner_dropout = Dropout(config.dropout)
        self.dropout = Dropout(config.dropout)

    def prepare(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention_norm(x)
        return result

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Project and gate, feed forward and gate: (…, D) each → (…, D)."""
        attended = self.attention_out_dropout(self.attention_out(mixed))
        u = x + self.attention_gate(x).sigmoid() * attended
        y = self.feed_forward_norm(u)
        inner = self.inner_dropout(F.silu(self.activated(y)) * self.multiplied(y))
        result: Tensor = u + self.feed_forward_gate(u).sigmoid() * self.dropout(self.outer(inner))
        return result
