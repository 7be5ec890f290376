"""SIGMA: a Mamba block that reads a history twice, forwards and partly reversed, beside a gated recurrent unit.

Liu, Liu, Wang, Wang, Jia, Wang, Liu, Chang, Zhao. "SIGMA: Selective Gated Mamba for Sequential Recommendation",
AAAI 2025, arXiv 2408.11451 (first called "Bidirectional Gated Mamba for Sequential Recommendation").
Official code: https://github.com/ziwliu-cityu/SIMGA (model/gated_mamba.py).

    x = LayerNorm(E[i]), x' = x with all but the last r items of the history in reverse order
    v = x + W_a x + b_a,                       v' = x' + W_b x' + b_b
    g = W_s silu(v) + W_t σ(v) + b,            g' = W_s silu(v') + W_t σ(v') + b
    y = c₂ Mamba(x) ⊙ (1 + g) + c₁ Mamba(x') ⊙ (1 + g') + c₀ GRU(conv(x))         one Mamba block for both
    u = LayerNorm(W_p y + b_p)                 with one layer;  LayerNorm(W_p y + b_p + x) when layers are stacked
    x ← LayerNorm(W₂ gelu(W₁ u + b₁) + b₂ + u)

The convolution has three taps: the positions before, at and after. A position thus sees items after it, and the model
is trained on prefixes. Reading x' is not undone: Mamba(x') is added position by position. The positions of the last
r ≥ 1 items, the scored one among them, are the same in x and x', so with one layer nothing depends on that.

A single layer, the setting that the authors chose, has no residual around what is mixed: the code says that this is
meant, so it is kept.

Departures from the official code, which `official_quirks` undoes:
- What is reversed is all but the last `kept` items of each history, by default 5. There it is the first 45 positions of
  the padded window whatever its length: 50 - 5 at the length that the authors used, but a history of up to 45 items
  is reversed together with the padding behind it, and at the scored position of one of up to 22 items the reversed
  reading has met padding only.
- Padding is left out: the convolution sees zeros behind the last item, and no padding is moved before an item.
- g' is a function of v' alone; there W_t σ(g) stands where W_t σ(v') is meant.
- The Mamba block keeps its own initialisation; there the initialiser of the whole model reaches into it
  (seqbench/models/mamba4rec.py).

And, always: batches of 256 prefixes instead of 2048. The code's dropout of 0.2 on the gates, a constant there, is
`gate_dropout`.

Shapes: B batch, T time, D width, V items plus padding; the Mamba block's in its own file.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import NeuralConfig, State, TrainingConfig, at_last, fill, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.mamba import NO_WEIGHT_DECAY, Mamba
from seqbench.models.stack import Block, Stack
from seqbench.models.times import Times
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-12
OFFICIAL_FLIP = 45  # positions


@dataclass(frozen=True)
class SIGMAConfig(NeuralConfig):
    """Defaults of the official code."""

    layers: int = 1
    dropout: float = 0.2
    gate_dropout: float = 0.2
    kept: int = 5  # r, the number of last items that stay in place
    d_state: int = 32  # states per channel
    d_conv: int = 4  # width of the Mamba block's convolution
    expand: int = 2  # channels per unit of hidden_size
    official_quirks: bool = False  # flip, gate, padding and initialisation as in the official code

    @property
    def causal(self) -> bool:
        """A position sees items after it."""
        return False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.gate_dropout < 1, "gate_dropout must be in [0, 1)")
        require(self.kept >= 0, "kept must not be negative")
        require(self.d_state >= 1, "d_state must be at least 1")
        require(self.d_conv >= 1, "d_conv must be at least 1")
        require(self.expand >= 1, "expand must be at least 1")


class SIGMA(Stack):
    """Mamba blocks that read both ways, over item embeddings, scored with tied weights."""

    Config = SIGMAConfig
    training_defaults = TrainingConfig(patience=10, batch_size=256, objective="prefix")
    no_weight_decay = (*Stack.no_weight_decay, *NO_WEIGHT_DECAY, "shares")
    display_name = "SIGMA"
    summary = "Mamba in two directions and a GRU"
    paper = "Liu et al., AAAI 2025"

    def __init__(self, items: int, max_len: int, config: SIGMAConfig) -> None:
        super().__init__(items, max_len, config)
        D = config.hidden_size
        self.kept = config.kept
        self.official = config.official_quirks
        self.embedding = nn.Embedding(items + 1, D, padding_idx=0)
        self.embedding_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(SIGMALayer(config) for _ in range(config.layers))
        inside = ".mamba."  # of a Mamba block, which has its own initialisation
        draw_normal(each for name, each in self.named_modules() if config.official_quirks or inside not in name)

    def enter(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return what enters the first layer (B, T, D), with the context of `SIGMALayer.mix`."""
        if self.official:
            items = fill(items, self.max_len)
        T = items.shape[1]
        x = self.embedding_norm(self.dropout(self.embedding(items)))
        if self.official:
            return x, {"order": flipped_order(T, torch.full_like(lengths, min(OFFICIAL_FLIP, T))), "valid": None}
        return x, {"order": flipped_order(T, (lengths - self.kept).clamp_min(0)), "valid": items > 0}

    def forward(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        return super().forward(items, lengths, times)[:, : items.shape[1]]


class Readings(NamedTuple):
    """What a layer mixes over time, each (…, D)."""

    flipped: Tensor  # x' itself
    forwards: Tensor  # Mamba(x)
    backwards: Tensor  # Mamba(x')
    recurrent: Tensor  # GRU(conv(x))


class SIGMALayer(Block):
    """Mixer and feed-forward layer, each with LayerNorm and, but for a lone mixer, residual."""

    def __init__(self, config: SIGMAConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.residual = config.layers > 1
        self.mixed_up_gate = config.official_quirks
        self.mamba = Mamba(D, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)
        self.gate_input = nn.Linear(D, D)  # W_a
        self.flipped_gate_input = nn.Linear(D, D)  # W_b
        self.gate_silu = nn.Linear(D, D)  # W_s
        self.gate_sigmoid = nn.Linear(D, D)  # W_t
        self.gate_dropout = Dropout(config.gate_dropout)
        self.convolution = nn.Conv1d(D, D, 3, padding=1)
        self.gru = nn.GRU(D, D, bias=False, batch_first=True)
        self.shares = nn.Parameter(torch.tensor([0.1, 0.1, 0.8]))  # of GRU, flipped and forward reading
        self.projection = nn.Linear(D, D)
        self.mixer_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(
            D, 4 * D, F.gelu, dropout=config.dropout, inner_dropout=config.dropout, norm_eps=LAYER_NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def mix(self, x: Tensor, order: Tensor, valid: Tensor | None) -> tuple[Readings, State]:
        """Read both ways and recur.

        Args:
            x: (B, T, D).
            order: (B, T), the position that each position of the flipped reading takes its input from.
            valid: (B, T) bool, which positions the convolution sees; all if None.
        """
        flipped = _permuted(x, order)
        forwards, backwards = self.mamba.mix(torch.cat([x, flipped]))[0].chunk(2)
        return Readings(flipped, forwards, backwards, self._recur(x, valid)), ()

    def mix_last(self, x: Tensor, lengths: Tensor, order: Tensor, valid: Tensor | None) -> tuple[Tensor, Readings]:
        """Read both ways and recur, for the last item of each row alone."""
        flipped = _permuted(x, order)
        _, both = self.mamba.mix_last(torch.cat([x, flipped]), lengths.repeat(2))
        recurrent = self._recur(x, valid)
        forwards, backwards = both.chunk(2)
        last, flipped, recurrent = (at_last(each, lengths) for each in (x, flipped, recurrent))
        return last, Readings(flipped, forwards, backwards, recurrent)

    def finish(self, x: Tensor, mixed: Readings) -> Tensor:
        """Gate and add up the readings, normalise, feed forward: (…, D) → (…, D)."""
        gated = x + self.gate_input(x)
        flipped_gated = mixed.flipped + self.flipped_gate_input(mixed.flipped)
        gate = self._gate(gated, gated)
        flipped_gate = self._gate(flipped_gated, gate if self.mixed_up_gate else flipped_gated)
        read = self.shares[2] * mixed.forwards * (1 + gate) + self.shares[1] * mixed.backwards * (1 + flipped_gate)
        out = self.dropout(self.projection(read + self.shares[0] * mixed.recurrent))
        result: Tensor = self.feed_forward(self.mixer_norm(out + x if self.residual else out))
        return result

    def _recur(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return GRU(conv(x)), (B, T, D)."""
        seen = x if valid is None else x * valid.unsqueeze(-1)
        recurrent: Tensor = self.gru(self.convolution(seen.transpose(1, 2)).transpose(1, 2))[0]
        return recurrent

    def _gate(self, through_silu: Tensor, through_sigmoid: Tensor) -> Tensor:
        """Return W_s silu(…) + W_t σ(…) + b with dropout."""
        gate = self.gate_silu(F.silu(through_silu)) + self.gate_sigmoid(torch.sigmoid(through_sigmoid))
        result: Tensor = self.gate_dropout(gate)
        return result


def flipped_order(T: int, count: Tensor) -> Tensor:
    """Return positions (B, T), of which the first `count` (B,) of each row are in reverse order."""
    positions = torch.arange(T, device=count.device)
    count = count.unsqueeze(1)
    return torch.where(positions < count, count - 1 - positions, positions)


def _permuted(x: Tensor, order: Tensor) -> Tensor:
    """Return x (B, T, D) with the position order[b, t] of its row at t."""
    B, T = order.shape
    rows = (order + T * torch.arange(B, device=order.device).unsqueeze(1)).flatten()
    return x.flatten(0, 1).index_select(0, rows).view_as(x)
