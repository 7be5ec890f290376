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
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import NeuralConfig, State, TrainingConfig, at_last, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.initialise import draw_normal
from seqbench.models.stack import Block, RecurrentStack
from seqbench.ops import rg_lru
from seqbench.ops.causal_convolution import causal_convolution
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-12
# exp(-softplus(Λ)), the decay with its gate fully open, starts evenly spread between these (in Λ).
SMALLEST_DECAY, LARGEST_DECAY = 0.9, 0.999


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

    Config = RecBLRConfig
    training_defaults = TrainingConfig()
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {"dropout": 0.2},
        "amazon-beauty": {"dropout": 0.5},
        "amazon-sports": {"dropout": 0.5},
        "gowalla": {"dropout": 0.4},
    }
    no_weight_decay = (*RecurrentStack.no_weight_decay, "decay")
    display_name = "RecBLR"
    summary = "gated linear recurrence"
    paper = "Liu et al., CIKM 2024"

    def __init__(self, items: int, max_len: int, config: RecBLRConfig) -> None:
        padding = (1 << (max_len - 1).bit_length()) - max_len if config.official_quirks else 0
        blocks = (RecurrentLayer(config, padding) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=LAYER_NORM_EPS)
        draw_normal(self.modules())


class RecurrentLayer(Block):
    """Gated linear recurrence and feed-forward layer, each with residual and LayerNorm."""

    def __init__(self, config: RecBLRConfig, padding: int) -> None:
        super().__init__()
        D, H, K = config.hidden_size, config.expand * config.hidden_size, config.d_conv
        self.padding = padding  # steps before the first item that the state has seen
        self.in_projection = nn.Linear(D, 2 * H, bias=False)  # rows: p, z
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

    def mix(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Return silu(z) ⊙ h (B, T, H) of x (B, T, D), and the state after the last position."""
        inputs, gate = self.in_projection(x).chunk(2, dim=-1)
        hidden, state = self._convolve_and_recur(inputs, state, lengths)
        return F.silu(gate) * hidden, state

    def mix_last(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, D) and silu(z) ⊙ h (B, H) at the last items, where alone z is computed."""
        of_inputs, of_gate = self.in_projection.weight.chunk(2)
        hidden, _ = self._convolve_and_recur(F.linear(x, of_inputs), None, None)
        last = at_last(x, lengths)
        return last, F.silu(F.linear(last, of_gate)) * at_last(hidden, lengths)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Project back, add and normalise, feed forward: x (…, D), mixed (…, H) → (…, D)."""
        result: Tensor = self.feed_forward(self.recurrence_norm(self.dropout(self.out_projection(mixed)) + x))
        return result

    def initial_state(self, batch: int) -> State:
        """Return a window of zeros (B, K - 1, H), and the hidden state (B, H) before the first item."""
        K, H = self.convolution_weight.shape
        return self.decay.new_zeros(batch, K - 1, H), self._first_state(batch)

    def _first_state(self, batch: int) -> Tensor:
        """Return zeros (B, H), or what `padding` steps without an item leave."""
        if not self.padding:
            return self.decay.new_zeros(batch, len(self.decay))
        nothing = self.convolution_bias.expand(1, self.padding, -1)  # the convolution of zeros
        return self._recur(nothing, None)[:, -1].expand(batch, -1)

    def _convolve_and_recur(self, inputs: Tensor, state: State | None, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Return hidden states (B, T, H) of p (B, T, H), and the state after the last position."""
        window, before = state if state is not None else (None, self._first_state(inputs.shape[0]))
        convolved, window = causal_convolution(inputs, self.convolution_weight, self.convolution_bias, window, lengths)
        hidden = self._recur(convolved, before)
        return hidden, (window, at_last(hidden, lengths))

    def _recur(self, convolved: Tensor, before: Tensor | None) -> Tensor:
        """Return hidden states (B, T, H) of the convolution's output."""
        inputs = F.silu(convolved)
        return rg_lru(inputs, self.gates(inputs), self.decay, before)
