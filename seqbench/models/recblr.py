"""RecBLR: behavior-dependent linear recurrent units for sequential recommendation.

Liu, Lin, Liu, Wang, Yang, Zhu, Caverlee. "Behavior-Dependent Linear Recurrent Units for Efficient Sequential
Recommendation", CIKM 2024. Official code: https://github.com/chengkai-liu/RecBLR (RecBLR.py).

    x = LayerNorm(E[i]), then per layer
    [p ; z] = W_in x
    c = silu(depthwise causal convolution of p)
    [r ; g] = W_g c + b_g
    α = exp(-softplus(Λ) ⊙ σ(r))
    h[t] = α[t] ⊙ h[t-1] + √(1 - α[t]² + 1e-8) ⊙ σ(g[t]) ⊙ c[t],   h[0] = 0
    u = LayerNorm(W_out (silu(z) ⊙ h) + x)
    x ← LayerNorm(W₂ silu(W₁ u + b₁) + b₂ + u)

Departures from the official code:
- The recurrence starts from zero at the first item, as the paper's equations say. There p is padded with zeros on the
  left to a power of two, for its parallel scan; since the convolution has a bias, c is silu(bias) at the padding,
  and the state that the first item finds depends on max_len. `official_quirks` does the same, and computes that
  state once instead of in every row.
- Trained on all positions of a sequence at once instead of on every prefix by itself; the network is causal, so the
  targets are the same, and so are their contexts, but that in sequences longer than max_len they are shorter after a
  cut.
- Batches of 32 sequences instead of 2048 prefixes, patience 20 instead of 10, 200 epochs instead of 300
  (TrainingConfig).

Shapes: B batch, T time, D width, H = expand · D channels, K width of the convolution, V items plus padding.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import ModelConfig, NeuralConfig, TrainingConfig, at_last, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.gated_projection import GatedProjection
from seqbench.models.initialise import draw_normal
from seqbench.models.recurrent_stack import RecurrentStack
from seqbench.ops import rg_lru
from seqbench.ops.causal_convolution import causal_convolution
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-12
# exp(-softplus(Λ)), the decay with its gate fully open, starts evenly spread between these (in Λ).
SMALLEST_DECAY, LARGEST_DECAY = 0.9, 0.999

State = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RecBLRConfig(NeuralConfig):
    """Defaults of the paper, but for dropout, which it tunes per data set."""

    dropout: float = 0.2
    d_conv: int = 4  # width of the convolution
    expand: int = 2  # channels per unit of hidden_size
    official_quirks: bool = False  # start from the state that the official code's padding leaves

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.d_conv >= 1, "d_conv must be at least 1")
        require(self.expand >= 1, "expand must be at least 1")


class RecBLR(RecurrentStack):
    """Gated linear recurrences and feed-forward layers over item embeddings, scored with tied weights."""

    Config: ClassVar[type[ModelConfig]] = RecBLRConfig
    training_defaults: ClassVar[TrainingConfig | None] = TrainingConfig()
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {"dropout": 0.2},
        "amazon-beauty": {"dropout": 0.5},
        "amazon-sports": {"dropout": 0.5},
        "gowalla": {"dropout": 0.4},
    }
    no_weight_decay: ClassVar[tuple[str, ...]] = (*RecurrentStack.no_weight_decay, "decay")
    summary: ClassVar[str] = "gated linear recurrence"
    paper: ClassVar[str] = "Liu et al., CIKM 2024"

    def __init__(self, items: int, max_len: int, config: RecBLRConfig) -> None:
        padding = (1 << (max_len - 1).bit_length()) - max_len if config.official_quirks else 0
        blocks = (RecurrentLayer(config, padding) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=LAYER_NORM_EPS)
        draw_normal(self.modules())

    def initial_state(self, batch: int) -> State:
        """The convolution's window (B, K - 1, H) and the hidden state (B, H), per layer."""
        return [cast(RecurrentLayer, block).initial_state(batch) for block in self.blocks]


class RecurrentLayer(nn.Module):
    """Gated linear recurrence and feed-forward layer, each with residual and LayerNorm."""

    def __init__(self, config: RecBLRConfig, padding: int) -> None:
        super().__init__()
        D, H, K = config.hidden_size, config.expand * config.hidden_size, config.d_conv
        self.padding = padding  # steps before the first item that the state has seen
        self.in_projection = GatedProjection(D, H)
        bound = 1 / math.sqrt(K)
        self.convolution_weight = nn.Parameter(torch.empty(K, H).uniform_(-bound, bound))
        self.convolution_bias = nn.Parameter(torch.empty(H).uniform_(-bound, bound))
        self.gates = nn.Linear(H, 2 * H)  # rows: r, g
        first, last = (math.log(math.expm1(-math.log(decay))) for decay in (SMALLEST_DECAY, LARGEST_DECAY))
        self.decay = nn.Parameter(torch.linspace(first, last, H))  # Λ
        self.out_projection = nn.Linear(H, D, bias=False)
        self.recurrence_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(
            D, 4 * D, F.silu, dropout=config.dropout, inner_dropout=config.dropout, norm_eps=LAYER_NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, D) → (B, T, D), or (B, D) at the last item of rows of lengths (B,).

        Also window (B, K - 1, H) and hidden state (B, H) after the last step.
        """
        window, before = state if state is not None else (None, self._first_state(len(x)))
        inputs, gate = self.in_projection(x, lengths)
        convolved, window = causal_convolution(inputs, self.convolution_weight, self.convolution_bias, window)
        hidden = self._recur(convolved, before)
        final = hidden[:, -1]
        if lengths is not None:
            x, hidden = at_last(x, lengths), at_last(hidden, lengths)
        mixed = self.out_projection(F.silu(gate) * hidden)
        x = self.recurrence_norm(self.dropout(mixed) + x)
        return self.feed_forward(x), (window, final)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Window (B, K - 1, H) and hidden state (B, H) before the first item."""
        K, H = self.convolution_weight.shape
        return self.decay.new_zeros(batch, K - 1, H), self._first_state(batch)

    def _first_state(self, batch: int) -> Tensor:
        """(B, H): zeros, or what the given number of steps without an item leave."""
        if not self.padding:
            return self.decay.new_zeros(batch, len(self.decay))
        nothing = self.convolution_bias.expand(1, self.padding, -1)  # the convolution of zeros
        return self._recur(nothing, None)[:, -1].expand(batch, -1)

    def _recur(self, convolved: Tensor, before: Tensor | None) -> Tensor:
        """Hidden states (B, T, H) from the convolution's output."""
        inputs = F.silu(convolved)
        dtype = inputs.dtype  # lower than that of the parameters under autocast
        gates = self.gates(inputs).to(dtype)
        return rg_lru(inputs, gates, self.decay.to(dtype), before if before is None else before.to(dtype))
