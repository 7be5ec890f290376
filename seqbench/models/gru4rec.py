"""GRU4Rec: a gated recurrent unit over item embeddings.

Hidasi, Karatzoglou, Baltrunas, Tikk. "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016; in the
form of RecBole 1.2.1 (https://github.com/RUCAIBox/RecBole, gru4rec.py), which the compared papers use as their
baseline: item embeddings instead of one-hot items, no biases in the GRU, full softmax.

    r = σ(W_r x + U_r h),  z = σ(W_z x + U_z h)                  x = E[i]
    h ← (1 - z) ⊙ tanh(W_n x + r ⊙ U_n h) + z ⊙ h
    output = W h + b, scored against E

Departures: trained on all positions of a sequence at once instead of on every prefix by itself; the network is causal,
so the targets are the same, and so are their contexts, but that in sequences longer than max_len they are shorter after
a cut. Batches of 32 sequences instead of 2048 prefixes, patience 20 instead of 10, 200 epochs instead of 300
(TrainingConfig).

The authors' own code trains with ranking losses on sampled items and reaches more than most other forms of it (Hidasi
and Czapp, RecSys 2023); this is not that.

Shapes: B batch, T time, D width of the embedding, H width of the GRU, V items plus padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from seqbench.models.base import SPACE, IncrementalModel, NeuralConfig, State, TrainingConfig, at_last, require
from seqbench.ops.dropout import Dropout
from seqbench.tuning.dimensions import Choice, Dimension


@dataclass(frozen=True)
class GRU4RecConfig(NeuralConfig):
    """RecBole's defaults."""

    embedding_size: int = 64
    hidden_size: int = 128  # of the GRU
    layers: int = 1
    dropout: float = 0.3  # on the embeddings only

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.embedding_size >= 1, "embedding_size must be at least 1")


class GRU4Rec(IncrementalModel):
    """GRU between an item embedding and a linear map back to its width, scored with tied weights."""

    Config = GRU4RecConfig
    training_defaults = TrainingConfig()
    space: ClassVar[Mapping[str, Dimension]] = SPACE | {
        "embedding_size": Choice((32, 64, 128)),
        "hidden_size": Choice((64, 128, 256)),
    }
    display_name = "GRU4Rec"
    summary = "gated recurrent unit"
    paper = "Hidasi et al., ICLR 2016"

    def __init__(self, items: int, max_len: int, config: GRU4RecConfig) -> None:
        super().__init__(items, max_len, config)
        self.embedding = nn.Embedding(items + 1, config.embedding_size)
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(config.embedding_size, config.hidden_size, config.layers, bias=False, batch_first=True)
        self.output = nn.Linear(config.hidden_size, config.embedding_size)
        nn.init.xavier_normal_(self.embedding.weight)
        for name in ("weight_ih_l0", "weight_hh_l0"):  # deeper layers keep torch's initialisation, as in RecBole
            nn.init.xavier_uniform_(self.gru.get_parameter(name))

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        result: Tensor = self.output(self._recur(items))
        return result

    def last_states(self, items: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]  # it uses no times
        result: Tensor = self.output(at_last(self._recur(items), lengths))
        return result

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    def initial_state(self, batch: int) -> State:
        """Return hidden states of zeros, (B, layers, H)."""
        return (self.embedding.weight.new_zeros(batch, self.gru.num_layers, self.gru.hidden_size),)

    def step(self, items: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, last = self.gru(self.embedding(items).unsqueeze(1), layers_first(state[0]))
        return self.output(hidden.squeeze(1)), (last.transpose(0, 1),)

    def _prefill(  # type: ignore[override]  # it uses no times
        self, items: Tensor, start: State, lengths: Tensor | None
    ) -> State:
        return (last_hidden(self.gru, self.embedding(items), lengths),)

    def _recur(self, items: Tensor) -> Tensor:
        """Return the GRU's states (B, T, H)."""
        result: Tensor = self.gru(self.dropout(self.embedding(items)))[0]
        return result


def layers_first(hidden: Tensor) -> Tensor:
    """Return hidden states (B, layers, H) as nn.GRU takes them, (layers, B, H)."""
    return hidden.transpose(0, 1).contiguous()


def last_hidden(gru: nn.GRU, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return all layers' hidden states (B, layers, H) after the first `lengths` (B,) of the inputs (B, T, D).

    Those of a row of length 0 mean nothing. All T inputs count if `lengths` is None.
    """
    if lengths is None:
        last: Tensor = gru(x)[1]
    else:
        rows = pack_padded_sequence(x, lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False)
        last = gru(rows)[1]
    return last.transpose(0, 1)
