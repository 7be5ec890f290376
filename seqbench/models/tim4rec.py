"""TiM4Rec: the state space duality of Mamba-2, whose steps are longer or shorter by the times between items.

Fan, Zhu, Hu, Feng, He, Liu, Liu. "TiM4Rec: An Efficient Sequential Recommendation Model Based on Time-Aware Structured
State Space Duality Model", Neurocomputing 2025, arXiv 2409.16182. Official code:
https://github.com/AlwaysFHao/TiM4Rec (tim4rec.py, ssd.py).

    x = LayerNorm(E[i])
    u = LayerNorm(SSD(x, σ) + x)                       in every layer; without + x where there is only one
    x ← LayerNorm(W₂ hardswish(W₁ u + b₁) + b₂ + u)

SSD is the block of Mamba-2 (ssd.py), in which δ is multiplied with σ, one number per head and position:

    τ = LayerNorm(t[p] - t[p-1])                                          over the L positions of a row; 0 at the first
    σ = a(c₂(a(c₁(τ ⊙ (V₂ silu(V₁ τ + w₁) + w₂)))))                       c depthwise causal convolutions over time
    τ ← LayerNorm(g ⊙ τ + (1 - g) ⊙ σ),   g = sigmoid(V_g τ + w_g)        for the next layer

The activation a, also that of the convolution in SSD, is hardswish unless there are 8, 16, … heads, and then silu: what
the official code does where causal-conv1d is installed.

The norms and maps of times run over the positions of the whole row, which is why a row has the same L = max_len
positions, whatever its length, and why a state depends on times after it. So it is trained on prefixes, and cannot be
carried on in steps. `time_aware` off leaves a causal model that can: the layer of SSD4Rec (Qu et al., "SSD4Rec: A
Structured State Space Duality Model for Efficient Sequential Recommendation", TOIS 2025) in one direction, as the
authors of TiM4Rec run it (baseline/SSD4Rec_r); train it with `objective=all-positions`.

Departures from the official code:
- Behind the last item t is 0 there, so that the step to the padding is as long as all time since 1970, and what is left
  of the other gaps by the norm over the row is next to nothing: times matter in full rows only. Here gaps at padding
  are 0. `official_quirks` keeps theirs.
- Gaps are differences of whole seconds; there of times in float32, which has steps of 128 s.
- In the last layer no τ for the next one is computed; there it is, and its weights have no gradient.
- Batches of 256 prefixes instead of 2048, and at most 200 epochs instead of 300 (TrainingConfig). What is added to the
  variance in norms is 1e-12 whatever the data; there 1e-5 for Beauty and 1e-10 for Steam.

Shapes: B batch, T time, L max_len, D width, V items plus padding; the SSD block's in its own file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import NeuralConfig, State, TrainingConfig, at_last, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.ssd import NO_WEIGHT_DECAY, SSD
from seqbench.models.stack import Block, RecurrentStack
from seqbench.models.times import Times
from seqbench.ops.causal_convolution import causal_convolution
from seqbench.ops.dropout import Dropout

NORM_EPS = 1e-12


@dataclass(frozen=True)
class TiM4RecConfig(NeuralConfig):
    """The official settings for MovieLens 1M; the presets have those for other data."""

    time_dropout: float = 0.2  # on τ before its maps
    d_state: int = 32  # channels of B and C
    d_conv: int = 4  # width of the convolutions
    expand: int = 2  # channels per unit of hidden_size
    heads: int = 4
    time_aware: bool = True  # without times the model is causal and can be carried on in steps
    point_gates: bool = False  # g has a value for each position, and not one for the row
    narrow_convolutions: bool = True  # draw convolutions as the official code does for MovieLens and Steam
    official_quirks: bool = False  # let the time behind the last item be 0, as in the official code

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.time_dropout < 1, "time_dropout must be in [0, 1)")
        require(self.d_state >= 1, "d_state must be at least 1")
        require(self.d_conv >= 1, "d_conv must be at least 1")
        require(self.expand >= 1, "expand must be at least 1")
        require(
            self.heads >= 1 and self.expand * self.hidden_size % self.heads == 0,
            "heads must divide expand · hidden_size",
        )

    @property
    def causal(self) -> bool:
        return not self.time_aware

    @property
    def uses_times(self) -> bool:
        return self.time_aware

    @property
    def absolute_times(self) -> bool:
        return self.time_aware and self.official_quirks

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """What follows the convolutions."""
        return F.hardswish if self.heads % 8 else F.silu


class TiM4Rec(RecurrentStack):
    """SSD blocks and feed-forward layers over item embeddings, scored with tied weights."""

    Config = TiM4RecConfig
    training_defaults = TrainingConfig(objective="prefix", batch_size=256)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {},
        "amazon-beauty": {
            "dropout": 0.4, "time_dropout": 0.0, "point_gates": True, "narrow_convolutions": False
        },
        "steam": {"learning_rate": 5e-4},
    }  # fmt: skip
    no_weight_decay = (*RecurrentStack.no_weight_decay, *NO_WEIGHT_DECAY)
    display_name = "TiM4Rec"
    summary = "state space duality, with times between items"
    paper = "Fan et al., Neurocomputing 2025"

    def __init__(self, items: int, max_len: int, config: TiM4RecConfig) -> None:
        blocks = (SSDLayer(config) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=NORM_EPS)
        self.heads, self.quirks = config.heads, config.official_quirks
        if config.time_aware:
            self.gap_dropout = Dropout(config.dropout)
            self.gap_norm = nn.LayerNorm(max_len, eps=NORM_EPS)
            last = config.layers - 1
            self.times = nn.ModuleList(TimeLayer(config, max_len, last=at == last) for at in range(config.layers))
        draw_normal(self.modules())
        if config.narrow_convolutions:
            for name, parameter in self.named_parameters():
                if "convolution_weight" in name:  # (K, channels): Kaiming's normal distribution by the fan-out
                    nn.init.normal_(parameter, std=(2 / parameter.numel()) ** 0.5)
                elif "convolution_bias" in name:
                    nn.init.zeros_(parameter)

    def forward(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        x = self.embed(items)
        for block, rates in zip(self.layers, self._rates(items, lengths, times), strict=True):
            x = block.finish(x, block.mix(x, rates=rates)[0])
        return x

    def last_states(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        x = self.embed(items)
        *before, final = zip(self.layers, self._rates(items, lengths, times), strict=True)
        for block, rates in before:
            x = block.finish(x, block.mix(x, rates=rates)[0])
        block, rates = final
        return block.finish(*block.mix_last(x, lengths, rates=rates))

    def _rates(self, items: Tensor, lengths: Tensor, times: Times | None) -> list[Tensor | None]:
        """Return σ (B, T, heads) of every layer; nothing without times.

        Raises:
            ValueError: rows are longer than max_len.
        """
        if times is None:
            return [None] * len(self.layers)
        T, L = items.shape[1], self.max_len
        if L < T:
            raise ValueError(f"TiM4Rec with max_len {L} has no position for item {T} of a history")
        gaps = F.pad(times.events.diff(dim=1), (1, L - T))
        positions, ends = torch.arange(L, device=items.device), lengths.unsqueeze(1)
        gaps = gaps.masked_fill(positions >= ends, 0)
        if self.quirks:
            gaps = torch.where(positions == ends, -at_last(times.events, lengths).unsqueeze(1), gaps)
        stretched = self.gap_norm(self.gap_dropout(gaps.to(self.gap_norm.weight.dtype)))
        stretched = stretched.unsqueeze(1).expand(-1, self.heads, -1)
        rates: list[Tensor | None] = []
        for layer in self.times:
            found, stretched = layer(stretched)
            rates.append(found[:, :T])
        return rates


class TimeLayer(nn.Module):
    """From the times of a row, what the steps of one layer are multiplied with, and the times of the next layer."""

    def __init__(self, config: TiM4RecConfig, max_len: int, *, last: bool) -> None:
        super().__init__()
        L, heads, bound = max_len, config.heads, config.d_conv**-0.5
        self.activation = config.activation
        self.scale_dropout = Dropout(config.time_dropout)
        self.scale_inner = nn.Linear(L, L)  # V₁
        self.scale_outer = nn.Linear(L, L)  # V₂
        for at in ("first", "second"):
            weight = torch.empty(config.d_conv, heads).uniform_(-bound, bound)
            self.register_parameter(f"{at}_convolution_weight", nn.Parameter(weight))
            self.register_parameter(f"{at}_convolution_bias", nn.Parameter(torch.empty(heads).uniform_(-bound, bound)))
        self.gate = None if last else nn.Linear(L, L if config.point_gates else 1)  # V_g
        if not last:
            self.gate_dropout = Dropout(config.time_dropout)
            self.norm = nn.LayerNorm(L, eps=NORM_EPS)

    def forward(self, stretched: Tensor) -> tuple[Tensor, Tensor]:
        """Return σ (B, L, heads) for τ (B, heads, L), and τ for the next layer; in the last one as it was."""
        scale = self.scale_outer(F.silu(self.scale_inner(self.scale_dropout(stretched))))
        rates = (stretched * scale).transpose(1, 2)
        for at in ("first", "second"):
            weight, bias = self.get_parameter(f"{at}_convolution_weight"), self.get_parameter(f"{at}_convolution_bias")
            rates = self.activation(causal_convolution(rates, weight, bias)[0])
        if self.gate is None:
            return rates, stretched
        gate = torch.sigmoid(self.gate(self.gate_dropout(stretched)))
        return rates, self.norm(gate * stretched + (1 - gate) * rates.transpose(1, 2))


class SSDLayer(Block):
    """SSD block and feed-forward layer, each with LayerNorm and, but for a lone SSD block, residual."""

    def __init__(self, config: TiM4RecConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.residual = config.layers > 1
        self.ssd = SSD(
            D,
            d_state=config.d_state,
            d_conv=config.d_conv,
            expand=config.expand,
            heads=config.heads,
            activation=config.activation,
            norm_eps=NORM_EPS,
        )
        self.ssd_norm = nn.LayerNorm(D, eps=NORM_EPS)
        self.feed_forward = FeedForward(
            D, 4 * D, F.hardswish, dropout=config.dropout, inner_dropout=config.dropout, norm_eps=NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def mix(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None, rates: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run the SSD block: x (B, T, D) and its state before → (B, T, D) and its state after."""
        return self.ssd.mix(x, state, lengths, rates)

    def mix_last(self, x: Tensor, lengths: Tensor, rates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the SSD block for the last items alone: x (B, T, D) → (B, D) each."""
        return self.ssd.mix_last(x, lengths, rates)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Normalise, with a residual where layers are stacked, and feed forward: (…, D) each → (…, D)."""
        mixed = self.dropout(mixed)
        result: Tensor = self.feed_forward(self.ssd_norm(mixed + x if self.residual else mixed))
        return result

    def initial_state(self, batch: int) -> State:
        """Return the SSD block's state before the first item."""
        return self.ssd.initial_state(batch)
