"""LRURec: linear recurrent units for sequential recommendation.

Yue, Wang, He, Zeng, McAuley, Wang. "Linear Recurrent Units for Sequential Recommendation", WSDM 2024.
Official code: https://github.com/yueqirex/LRURec (model/lru.py).

Per block, with complex channels h of size 2D and λ = exp(-exp(ν) + i·exp(θ)), γ = exp(γ_log):

    h[t] = λ ⊙ h[t-1] + γ ⊙ (B x[t] + b)
    u[t] = LayerNorm(Re(C h[t] + c) + x[t])
    x[t] ← LayerNorm(W₂ gelu(W₁ u[t] + b₁) + b₂ + u[t])

Departures from the official code, none of which changes what the network can express:
- Sequences are padded on the right and scanned at their own length; there they are padded on the left to a power
  of two and the carry out of padding is masked. The states at real positions are equal.
- Batches of 32 sequences instead of 128, an Adam epsilon of 1e-8 instead of 1e-9, at most 200 epochs instead of 500,
  and a validation after every epoch with patience 20; there one after 500 to 2,000 steps, with patience 10.
- The first item of a sequence is not a training target; there it is predicted from the last padding position. How
  its windows are cut, otherwise, is part of the protocol (`--protocol lrurec`).
- Complex matrices are stored as real ones whose rows (B) or columns (C) alternate between real and imaginary
  part, so that no complex tensor is ever converted. The imaginary part of c, which cannot reach the output, is
  left out.

Shapes: B batch, T time, D width, H = 2D complex channels, V items plus padding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import SPACE, NeuralConfig, State, TrainingConfig, at_last, require
from seqbench.models.feed_forward import FeedForward
from seqbench.models.stack import Block, RecurrentStack
from seqbench.ops import linear_scan
from seqbench.ops.dropout import Dropout
from seqbench.tuning.dimensions import Choice, Dimension

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class LRURecConfig(NeuralConfig):
    """Defaults of the official code; the paper tunes the dropout per data set, from 0.2 to 0.8 (`presets`)."""

    r_min: float = 0.8  # |λ| is drawn between r_min and r_max
    r_max: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.r_min < self.r_max < 1, "0 < r_min < r_max < 1 must hold")


class LRURec(RecurrentStack):
    """Stack of linear recurrent units over item embeddings, scored with tied weights and an item bias."""

    Config = LRURecConfig
    training_defaults = TrainingConfig(weight_decay=0.01, clip_norm=5.0)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {"dropout": 0.2},
        "amazon-beauty-sasrec": {"dropout": 0.6},
        "amazon-video-games-sasrec": {"dropout": 0.6},
    }
    space: ClassVar[Mapping[str, Dimension]] = SPACE | {"dropout": Choice((0.2, 0.4, 0.6, 0.8))}  # the paper's grid
    display_name = "LRURec"
    summary = "linear recurrent units"
    paper = "Yue et al., WSDM 2024"

    def __init__(self, items: int, max_len: int, config: LRURecConfig) -> None:
        blocks = (LRUBlock(config) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=LAYER_NORM_EPS)
        self.scores_bias = nn.Parameter(torch.empty(items + 1))
        for name, parameter in self.named_parameters():
            if "norm" not in name and "_log" not in name:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)

    def item_bias(self) -> Tensor:
        return self.scores_bias


class LRUBlock(Block):
    """Linear recurrent unit and feed-forward layer, each with residual and LayerNorm."""

    def __init__(self, config: LRURecConfig) -> None:
        super().__init__()
        D, H = config.hidden_size, 2 * config.hidden_size
        modulus = torch.empty(H).uniform_(config.r_min**2, config.r_max**2).sqrt()
        phase = torch.rand(H) * 2 * math.pi
        self.nu_log = nn.Parameter(torch.log(-torch.log(modulus)))
        self.theta_log = nn.Parameter(torch.log(phase))
        self.gamma_log = nn.Parameter(torch.log(torch.sqrt(1 - modulus**2)))
        self.in_projection = nn.Linear(D, 2 * H)  # rows alternate Re B, Im B
        self.out_projection = nn.Linear(2 * H, D)  # columns alternate Re C, -Im C
        self.recurrence_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.feed_forward = FeedForward(
            D, 4 * D, F.gelu, dropout=config.dropout, inner_dropout=config.dropout, norm_eps=LAYER_NORM_EPS
        )
        self.dropout = Dropout(config.dropout)

    def mix(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Scan: x (B, T, D) and the hidden state (B, H) before it → complex h (B, T, H), and the last of them."""
        gates = torch.polar(torch.exp(-torch.exp(self.nu_log)), torch.exp(self.theta_log))
        # γ scales the rows of B rather than every position: the same product, T·B/D times cheaper.
        scale = torch.exp(self.gamma_log).repeat_interleave(2)
        drive = F.linear(x, self.in_projection.weight * scale.unsqueeze(1), self.in_projection.bias * scale)
        before = None if state is None else state[0]
        hidden = linear_scan(gates, torch.view_as_complex(drive.unflatten(-1, (-1, 2))), before)
        return hidden, (at_last(hidden, lengths),)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Project h back, add and normalise, feed forward: x (…, D), complex h (…, H) → (…, D)."""
        projected = self.out_projection(torch.view_as_real(mixed).flatten(-2))
        result: Tensor = self.feed_forward(self.recurrence_norm(self.dropout(projected) + x))
        return result

    def initial_state(self, batch: int) -> State:
        """Return a hidden state of zeros, complex (B, H)."""
        dtype = torch.complex128 if self.nu_log.dtype == torch.float64 else torch.complex64
        return (torch.zeros(batch, len(self.nu_log), dtype=dtype, device=self.nu_log.device),)
