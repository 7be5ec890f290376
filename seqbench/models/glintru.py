"""GLINT-RU: a gated recurrent unit and linear attention side by side, in one gated layer.

Zhang, Wang, Wang, Gao, Zhao, Yang, Wei, Liu, Xu. "GLINT-RU: Gated Lightweight Intelligent Recurrent Units for
Sequential Recommender Systems", KDD 2025, arXiv 2406.10244.
Official code: https://github.com/szhang-cityu/GLINT-RU (GLINT-RU.py).

    x = E[i]
    a = LayerNorm(W_o · linear attention(x) + b_o + x)        seqbench/models/linear_attention.py
    p = conv(W₁ x + b₁)                                       three taps: the positions before, at and after
    y = conv'(gate(p) ⊙ (W_p GRU(p) + b_p)),                  gate(p) = W_g silu(W_f p + b_f) + b_g
    h = LayerNorm(W_d ((m₀ y + m₁ a) ⊙ gelu(W₂ x + b₂)) + b_d + x),        (m₀, m₁) = softmax(two parameters)
    out = LayerNorm(W_out ((W₃ h + b₃) ⊙ gelu(W₄ h + b₄)) + b_out + h)      the same LayerNorm

As published, a position sees all items of the row, those after it included, so that it is trained on prefixes. With
`causal` both convolutions see the position and the two before it, and the attention the positions up to its own; then
all positions can be trained at once (`objective`), and items appended at a cost that does not depend on the history.
That form is not the paper's.

Departures from the official code:
- Padding is left out: of the attention's sums, and of both convolutions, which see zeros behind the last item. There
  the embedding of padding takes part in all of them, as often as a row is short of max_len. `official_quirks` brings
  this back.
- A query or key whose ELU is exactly zero stays zero; there it gives NaN.
- Batches of 256 prefixes instead of 2048.
- One dropout, 0.2, on the embeddings and on the attention; the code has one option for each and gives a value only for
  the attention's. The dropout that it has as a constant, 0.3 at three places, is `inner_dropout`.

Shapes: B batch, T time, D width, V items plus padding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import IncrementalModel, NeuralConfig, State, TrainingConfig, at_last, fill, require
from seqbench.models.gru4rec import last_hidden, layers_first
from seqbench.models.linear_attention import LinearAttention
from seqbench.ops.causal_convolution import window_at_end
from seqbench.ops.dropout import Dropout

LAYER_NORM_EPS = 1e-12
TAPS = 3  # of both convolutions


@dataclass(frozen=True)
class GLINTRUConfig(NeuralConfig):
    """Defaults of the official code; `layers` is the depth of the GRU."""

    hidden_size: int = 128
    layers: int = 1
    heads: int = 8
    inner_dropout: float = 0.3  # on the gate and on both products
    causal: bool = False  # a position sees the items up to its own instead of all
    official_quirks: bool = False  # padding up to max_len takes part in the sums and in the convolutions

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.heads >= 1 and self.hidden_size % self.heads == 0, "heads must divide hidden_size")
        require(self.hidden_size >= 2, "hidden_size must be at least 2")
        require(0 <= self.inner_dropout < 1, "inner_dropout must be in [0, 1)")
        require(not (self.causal and self.official_quirks), "official_quirks has no causal form")


class GLINTRU(IncrementalModel):
    """One layer of recurrence and linear attention over item embeddings, scored with tied weights."""

    Config = GLINTRUConfig
    training_defaults = TrainingConfig(patience=10, batch_size=256, objective="prefix")
    no_weight_decay = (*IncrementalModel.no_weight_decay, "mixing")
    display_name = "GLINT-RU"
    summary = "GRU and linear attention"
    paper = "Zhang et al., KDD 2025"

    def __init__(self, items: int, max_len: int, config: GLINTRUConfig) -> None:
        super().__init__(items, max_len, config)
        D = config.hidden_size
        self.causal = config.causal
        self.see_padding = config.official_quirks
        self.embedding = nn.Embedding(items + 1, D, padding_idx=0)
        self.attention = LinearAttention(
            D, heads=config.heads, dropout=config.dropout, causal=config.causal, norm_eps=LAYER_NORM_EPS
        )
        self.recurrent_in = nn.Linear(D, D)
        self.convolution_in = nn.Conv1d(D, D, TAPS)
        self.gru = nn.GRU(D, D, config.layers, bias=False, batch_first=True)
        self.gate_in = nn.Linear(D, D // 2)
        self.gate_out = nn.Linear(D // 2, D)
        self.recurrent_out = nn.Linear(D, D)
        self.convolution_out = nn.Conv1d(D, D, TAPS)
        self.mixing = nn.Parameter(torch.full((2,), 0.5))  # logits: recurrence, attention
        self.mix_gate = nn.Linear(D, D)
        self.mix_out = nn.Linear(D, D)
        self.filter_in = nn.Linear(D, 2 * D)  # rows: W₃, W₄
        self.filter_out = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(config.dropout)
        self.inner_dropout = Dropout(config.inner_dropout)
        nn.init.xavier_normal_(self.embedding.weight)
        for name, parameter in self.gru.named_parameters():
            if name.endswith("_l0"):
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Joined matrices are drawn one by one: the bound depends on the shape.
                for part in module.weight.split(min(module.weight.shape[0], D)):
                    nn.init.xavier_uniform_(part)
                nn.init.zeros_(module.bias)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        T = items.shape[1]
        if self.see_padding:
            items = fill(items, self.max_len)
        x = self.dropout(self.embedding(items))
        valid = None if self.see_padding else items > 0
        attended = self.attention.finish(x, self.attention.mix(x, valid)[0])
        convolved, hidden = self._recur(x, valid)
        recurrent = self._convolve(self.convolution_out, _masked(self._select(convolved, hidden), valid))
        return self._finish(x, recurrent, attended)[:, :T]

    def last_states(self, items: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]  # it uses no times
        if self.see_padding:
            return super().last_states(items, lengths)
        x = self.dropout(self.embedding(items))
        valid = items > 0
        attended = self.attention.finish(*self.attention.mix_last(x, lengths, valid))
        convolved, hidden = self._recur(x, valid)
        # Of what follows the GRU only as much is needed as the last position sees through the second convolution.
        rows = torch.arange(items.shape[0], device=items.device)
        positions = lengths.unsqueeze(1) + torch.arange(-TAPS, 0, device=items.device)
        seen = rows.unsqueeze(1), positions.clamp_min(0)
        selected = _masked(self._select(convolved[seen], hidden[seen]), positions >= 0)
        recurrent = self._convolve(self.convolution_out, selected)[:, -1]
        return self._finish(at_last(x, lengths), recurrent, attended)

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def initial_state(self, batch: int) -> State:
        """Return the state before the first item.

        It holds the inputs of both convolutions at the two positions before (B, 2, D), the GRU's state (B, layers, D),
        and the attention's sum (B, heads, E, E).
        """
        weight = self.embedding.weight
        D = weight.shape[1]
        windows = (weight.new_zeros(batch, TAPS - 1, D) for _ in range(2))
        return *windows, weight.new_zeros(batch, self.gru.num_layers, D), *self.attention.initial_state(batch)

    def step(self, items: Tensor, state: State) -> tuple[Tensor, State]:
        window_in, window_out, memory, *sums = state
        x = self.embedding(items)
        mixed, after = self.attention.mix(x.unsqueeze(1), state=tuple(sums))
        attended = self.attention.finish(x, mixed.squeeze(1))
        window_in = torch.cat([window_in, self.recurrent_in(x).unsqueeze(1)], dim=1)
        convolved = self.convolution_in(window_in.transpose(1, 2)).transpose(1, 2)  # (B, 1, D)
        hidden, memory = self.gru(convolved, layers_first(memory))
        window_out = torch.cat([window_out, self._select(convolved, hidden)], dim=1)
        recurrent = self.convolution_out(window_out.transpose(1, 2)).squeeze(2)
        state = window_in[:, 1:], window_out[:, 1:], memory.transpose(0, 1), *after
        return self._finish(x, recurrent, attended), state

    def _prefill(  # type: ignore[override]  # it uses no times
        self, items: Tensor, start: State, lengths: Tensor | None
    ) -> State:
        x = self.embedding(items)
        valid = items > 0
        drive = self.recurrent_in(x)
        convolved = self._convolve(self.convolution_in, drive)
        hidden, _ = self.gru(convolved)
        windows = (
            window_at_end(F.pad(each, (0, 0, TAPS - 1, 0)), TAPS, lengths)
            for each in (drive, self._select(convolved, hidden))
        )
        _, sums = self.attention.mix(x, valid, self.attention.initial_state(len(items)))
        return *windows, last_hidden(self.gru, convolved, lengths), *sums

    def _recur(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return p and GRU(p) of embeddings, each (B, T, D)."""
        convolved = self._convolve(self.convolution_in, _masked(self.recurrent_in(x), valid))
        hidden, _ = self.gru(convolved)
        return convolved, hidden

    def _select(self, convolved: Tensor, hidden: Tensor) -> Tensor:
        """Return gate(p) ⊙ (W_p GRU(p) + b_p), position by position."""
        gate = self.inner_dropout(self.gate_out(F.silu(self.gate_in(convolved))))
        result: Tensor = gate * self.recurrent_out(hidden)
        return result

    def _convolve(self, convolution: nn.Conv1d, x: Tensor) -> Tensor:
        """Convolve (B, T, D) with zeros around the row: before it if causal, else on both sides."""
        around = (TAPS - 1, 0) if self.causal else (TAPS // 2, TAPS // 2)
        result: Tensor = convolution(F.pad(x.transpose(1, 2), around)).transpose(1, 2)
        return result

    def _finish(self, x: Tensor, recurrent: Tensor, attended: Tensor) -> Tensor:
        """Join the two branches, position by position: (…, D) of each → (…, D)."""
        share = torch.softmax(self.mixing, dim=0)
        mixed = (share[0] * recurrent + share[1] * attended) * F.gelu(self.mix_gate(x))
        h = self.norm(self.inner_dropout(self.mix_out(mixed)) + x)
        value, gate = self.filter_in(h).chunk(2, dim=-1)
        result: Tensor = self.norm(self.inner_dropout(self.filter_out(value * F.gelu(gate))) + h)
        return result


def _masked(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return x (B, T, D) with zeros where not valid; x itself if None."""
    return x if valid is None else x * valid.unsqueeze(-1)
