"""RetNet: retention, linear attention whose memory fades at a rate of its own in each head.

Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei. "Retentive Network: A Successor to Transformer for Large Language Models",
2023, arXiv 2307.08621, equations 1 to 9. Official code: https://github.com/microsoft/torchscale
(component/multiscale_retention.py, architecture/retnet.py), a language model; here it is a plain backbone over item
embeddings, as in the comparisons of FuXi-Linear (arXiv 2602.23671).

    x = E[i]
    y = LN₁(x)
    q[n] = R(n) W_Q y[n],   k[n] = R(n) W_K y[n] / √K,   v[n] = W_V y[n]                 per head
    S[n] = γ S[n-1] + k[n] v[n]ᵀ,   o[n] = S[n]ᵀ q[n],   γ = 1 - 2^(-5-h) in head h = 0, 1, …
    u = x + W_O (silu(W_G y) ⊙ GroupNorm(o))
    x ← u + W₂ gelu(W₁ LN₂(u))
    state = LN(x) after the last block

R(n) turns the i-th pair of channels by n · θ[i], θ falling from 1 to 1/10,000 in equal ratios. A pair of positions sees
the difference of its turns alone, so the state is kept as seen from the newest position: a step turns it by one more
position, and nothing is counted.

Departures from the paper:
- Outputs of a position and head are not scaled by the sums of decays and of weights (its "score normalisation"): such a
  factor is without effect under the group norm that follows.
- No bias, and no learned scale and shift in the group norm, as in the official code.
- Embeddings start from N(0, 0.02²) and are not multiplied with √D; scores are products with the same table.
Of the official code this has W_Q, W_K, W_V and W_G drawn by Xavier's uniform distribution with a gain of 2^-2.5, W_O
with 2^-1, and θ; its later changes (RMS norms, a gated feed-forward layer) are not in the paper and not here.

Shapes: B batch, T time, D width, H heads, K = D / H channels of queries and keys, V = value_factor · K of values.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import NeuralConfig, State, at_last, require
from seqbench.models.stack import Block, IncrementalStack
from seqbench.models.times import Times
from seqbench.ops import matrix_scan
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-5
SLOWEST_TURN = 1e-4  # of the last pair of channels, radians a position; the first turns by 1


@dataclass(frozen=True)
class RetNetConfig(NeuralConfig):
    """Ratios of the paper; width, layers and dropout of the other models here, and as many heads as fit the width."""

    heads: int = 4
    value_factor: int = 2  # width of values and gates in D
    inner_factor: int = 2  # width of the feed-forward layer in D

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.heads >= 1 and self.hidden_size % (2 * self.heads) == 0,
            "heads must divide hidden_size into even parts",
        )
        require(self.value_factor >= 1, "value_factor must be at least 1")
        require(self.inner_factor >= 1, "inner_factor must be at least 1")


class RetNet(IncrementalStack):
    """Retention blocks over item embeddings, scored with tied weights."""

    Config = RetNetConfig
    display_name = "RetNet"
    summary = "retention: linear attention that fades"
    paper = "Sun et al., arXiv 2307.08621"

    def __init__(self, items: int, max_len: int, config: RetNetConfig) -> None:
        super().__init__(items, max_len, config)
        self.embedding = nn.Embedding(items + 1, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = Dropout(config.dropout)
        last = config.layers - 1
        self.blocks = nn.ModuleList(RetentionBlock(config, last=at == last) for at in range(config.layers))

    def enter(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, object]]:
        return self.dropout(self.embedding(items)), {}

    def _append(self, items: Tensor, state: State, lengths: Tensor | None, **times: Times) -> tuple[Tensor, State]:
        return self._run(self.dropout(self.embedding(items)), state, lengths=lengths)


class RetentionBlock(Block):
    """Gated retention and a feed-forward layer, each behind a LayerNorm; the last block ends with another."""

    log_decay: Tensor
    turn: Tensor

    def __init__(self, config: RetNetConfig, *, last: bool) -> None:
        super().__init__()
        D, H = config.hidden_size, config.heads
        self.heads = H
        self.sizes = (D, D, config.value_factor * D)
        self.retention_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)  # LN₁
        self.feed_forward_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)  # LN₂
        self.out_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS) if last else nn.Identity()
        self.query_key_value = nn.Linear(D, sum(self.sizes), bias=False)  # rows: W_Q, W_K, W_V
        self.gate = nn.Linear(D, self.sizes[2], bias=False)  # W_G
        self.retention_out = nn.Linear(self.sizes[2], D, bias=False)  # W_O
        self.inner = nn.Linear(D, config.inner_factor * D, bias=False)  # W₁
        self.outer = nn.Linear(config.inner_factor * D, D, bias=False)  # W₂
        self.retention_dropout = Dropout(config.dropout)
        self.inner_dropout = Dropout(config.dropout)
        self.dropout = Dropout(config.dropout)
        for weight in (*self.query_key_value.weight.split(self.sizes), self.gate.weight):
            nn.init.xavier_uniform_(weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.retention_out.weight, gain=2**-1)
        self.register_buffer("log_decay", torch.log1p(-(2.0 ** (-5 - torch.arange(H)))), persistent=False)
        self.register_buffer("turn", SLOWEST_TURN ** torch.linspace(0, 1, D // H // 2), persistent=False)

    def mix(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Retain and gate: x (B, T, D) and its state before → (B, T, H · V) and its state after."""
        y = self.retention_norm(x)
        retained, state = self._retain(y, state, lengths)
        return self._gated(y, retained), state

    def mix_last(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Retain for the last items alone, where alone it is gated: x (B, T, D) → (B, D) and (B, H · V)."""
        y = self.retention_norm(x)
        retained, _ = self._retain(y, None, None)
        return at_last(x, lengths), self._gated(at_last(y, lengths), at_last(retained, lengths))

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Project and feed forward, each with a residual: (…, D) and (…, H · V) → (…, D)."""
        u = x + self.retention_dropout(self.retention_out(mixed))
        inner = self.inner_dropout(F.gelu(self.inner(self.feed_forward_norm(u))))
        result: Tensor = self.out_norm(u + self.dropout(self.outer(inner)))
        return result

    def initial_state(self, batch: int) -> State:
        """Return S of no positions: zeros (B, H, K, V)."""
        D, _, values = self.sizes
        return (self.gate.weight.new_zeros(batch, self.heads, D // self.heads, values // self.heads),)

    def _retain(self, y: Tensor, state: State | None, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Retain y (B, T, D): o (B, T, H, V), and S as seen from the last position that counts."""
        B, T, _ = y.shape
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)) for part in self.query_key_value(y).split(self.sizes, dim=-1)
        )
        angles = torch.arange(T, device=y.device).unsqueeze(1) * self.turn  # (T, K / 2)
        query, key = (_turned(each, angles.unsqueeze(1)) for each in (query, key / key.shape[-1] ** 0.5))
        log_decay = self.log_decay.to(query.dtype).expand(B, T, self.heads)
        before = None if state is None else _turned(state[0].mT, -self.turn).mT  # seen from position 0
        if lengths is not None:  # a step with a key of 0 that does not fade leaves the state as it is
            counts = (torch.arange(T, device=y.device) < lengths.unsqueeze(1)).unsqueeze(2)
            key, log_decay = key * counts.unsqueeze(3), log_decay * counts
        retained, after = matrix_scan(query, key, value, log_decay, before)
        if state is None:
            return retained, ()
        last = angles[-1] if lengths is None else ((lengths - 1).unsqueeze(1) * self.turn)[:, None, None]
        return retained, (_turned(after.mT, -last).mT,)

    def _gated(self, y: Tensor, retained: Tensor) -> Tensor:
        """Return silu(W_G y) ⊙ GroupNorm(o) of y (…, D) and o (…, H, V): (…, H · V)."""
        normal = F.layer_norm(retained, retained.shape[-1:], eps=LAYER_NORM_EPS)
        return F.silu(self.gate(y)) * normal.flatten(-2)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs of channels (0, 1), (2, 3), … of x (…, K) by angles (…, K / 2)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1).flatten(-2)
