"""HSTU: attention without a softmax, gated, with biases of how far and how long ago an item was.

Zhai, Liao, Liu, Wang, Li, Cao, Gao, Gong, Gu, He, Lu, Shi. "Actions Speak Louder than Words: Trillion-Parameter
Sequential Transducers for Generative Recommendations", ICML 2024; in the form of RecTools 0.19
(https://github.com/MobileTeleSystems/RecTools, hstu.py), with the settings of its tutorial for MovieLens 1M, which are
those of the authors' own configuration.

    x = √D · E[i] + P[n - 1 - p]                              p of n items: position 0 is the newest item
    [u ; v ; q ; k] = silu(W LN₁(x))
    a[p] = Σ_{j ≤ p} silu(q[p] · k[j] + w_position[p - j] + w_time[bucket(request_p - t_j)]) v[j] / L       per head
    x ← W_o (u ⊙ LN₂(a)) + b_o + x                            L is max_len, whatever the length

The score of an item is the cosine of x and E, divided by a temperature. Row 0 of E, the padding, is drawn like the
others and stays as it was drawn, in the softmax over the whole catalogue too.

As published, request_p is the time of the item after p: in a test, of the target. Here that is so with
`--request-time`; otherwise it is the time of item p, which is a model of ours. Without `time_bias` there is no w_time.

`positions` "oldest" counts from the oldest item instead; only then can histories be carried on in steps, which keep
keys, values and times.

Departures: batches hold about as many targets as 128 rows have on average, not 128 rows; the loss is the mean over all
targets (RecTools leaves those out whose loss is 0 in float32); training may stop early, where RecTools' runs to its
end; the epoch is chosen by the protocol's metric. The authors' own code counts positions from the oldest item, divides
by L + 11 and leaves hits among the negatives out. A second dropout of RecTools', on a, is 0 there and left out here.

Shapes: B batch, T time, D width, E = D / heads, L max_len, V items plus padding.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.attention import keep_first, keep_next
from seqbench.models.base import NeuralConfig, State, TrainingConfig, at_last, require, require_one_of
from seqbench.models.initialise import draw_xavier, keep_padding
from seqbench.models.stack import POSITIONS, Block, PositionedStack
from seqbench.models.times import Times
from seqbench.ops import silu_attention
from seqbench.ops.dropout import Dropout
from seqbench.ops.functions.silu_attention import silu_attention_last

LAYER_NORM_EPS = 1e-6
COSINE_EPS = 1e-8
BUCKETS = 129  # of time; the last one is beyond any time


@dataclass(frozen=True)
class HSTUConfig(NeuralConfig):
    """The settings for MovieLens 1M; the presets have those for other data."""

    hidden_size: int = 50
    dropout: float = 0.2  # on embeddings and on the gated attention
    heads: int = 1
    temperature: float = 0.05  # that cosines are divided by
    time_bias: bool = True  # attention sees how long ago an item was
    positions: str = "newest"  # from which item positions count; from the "oldest" it can also be carried on in steps

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.heads >= 1 and self.hidden_size % self.heads == 0, "heads must divide hidden_size")
        require(self.temperature > 0, "temperature must be positive")
        require_one_of(self.positions, POSITIONS, "positions")

    @property
    def uses_times(self) -> bool:
        return self.time_bias


class HSTU(PositionedStack):
    """Gated attention without a softmax over item and position embeddings, scored by cosines."""

    Config = HSTUConfig
    training_defaults = TrainingConfig(
        epochs=100, batch_size=128, loss="uncorrected-softmax", negatives=128, beta2=0.98
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ml-1m": {},
        "ml-20m": {"hidden_size": 256, "layers": 4, "heads": 4},
        "amazon-books": {
            "hidden_size": 64, "layers": 4, "heads": 4, "dropout": 0.5, "negatives": 512, "epochs": 201
        },
    }  # fmt: skip
    display_name = "HSTU"
    summary = "gated SiLU attention"
    paper = "Zhai et al., ICML 2024"
    state_grows = True

    def __init__(self, items: int, max_len: int, config: HSTUConfig) -> None:
        blocks = (HSTUBlock(config, max_len) for _ in range(config.layers))
        super().__init__(items, max_len, config, blocks, norm_eps=None)
        self.scale = math.sqrt(config.hidden_size)
        self.temperature = config.temperature
        self.unit_items: tuple[tuple[int, int], Tensor] | None = (
            None  # the item table as it is scored with, and of what
        )
        draw_xavier(self)
        keep_padding(self.embedding)

    def leave(self, x: Tensor) -> Tensor:
        """Return unit vectors divided by the temperature, so that products with `item_weights` are what is trained."""
        return F.normalize(x, dim=-1, eps=COSINE_EPS) / self.temperature

    def item_weights(self) -> Tensor:
        weight = self.embedding.weight
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return F.normalize(weight, dim=-1, eps=COSINE_EPS)
        # In use the table stays what it is: to make it anew would take longer than to score with it.
        key = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        if self.unit_items is None or self.unit_items[0] != key:
            self.unit_items = key, F.normalize(weight, dim=-1, eps=COSINE_EPS)
        return self.unit_items[1]

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.unit_items = None  # fused optimizers change weights without telling torch's counter of versions
        return super().train(mode)

    def item_parameters(self) -> list[Tensor]:
        return [self.embedding.weight]

    def initial_state(self, batch: int) -> State:
        """Return the number of items (B,), their times (B, max_len) if they matter, and the blocks' keys and values."""
        seen, *blocks = super().initial_state(batch)
        events = [seen.new_zeros(batch, self.max_len)] if self.config.uses_times else []
        return seen, *events, *blocks

    def _embed_at(self, items: Tensor, positions: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.scale * self.embedding(items) + positions)
        return result

    def _append(self, items: Tensor, state: State, lengths: Tensor | None, **times: Times) -> tuple[Tensor, State]:
        if not times:
            return super()._append(items, state, lengths)
        (seen, events, *blocks), given = state, times["times"]
        if items.shape[1] > 1:  # nothing was seen before
            events[:, : items.shape[1]] = given.events
        else:  # one that has no position is refused where positions are looked up
            rows = torch.arange(seen.shape[0], device=seen.device)
            events[rows, seen.clamp_max(self.max_len - 1)] = given.events[:, 0]
        all_times = Times(events, given.requests)
        x, (count, *after) = super()._append(items, (seen, *blocks), lengths, times=all_times)
        return x, (count, events, *after)


class HSTUBlock(Block):
    """Attention over SiLU-activated queries, keys and values, gated, between a LayerNorm and a residual."""

    def __init__(self, config: HSTUConfig, max_len: int) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads = config.heads
        self.max_len = max_len
        self.input_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)  # LN₁
        self.projection = nn.Linear(D, 4 * D, bias=False)  # W, rows: gate u, values, queries, keys
        self.position_bias = nn.Parameter(0.02 * torch.randn(max_len))  # by distance
        self.time_bias = nn.Parameter(0.02 * torch.randn(BUCKETS)) if config.time_bias else None
        self.attended_norm = nn.LayerNorm(D, eps=LAYER_NORM_EPS)  # LN₂
        self.out = nn.Linear(D, D)  # W_o
        self.dropout = Dropout(config.dropout)

    def mix(
        self,
        x: Tensor,
        times: Times | None = None,
        state: State | None = None,
        lengths: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[tuple[Tensor, Tensor], State]:
        """Attend from every position of x (B, T, D): the gate u and what is attended (B, T, D), and the state with x.

        The state is the keys and the values of `seen` (B,) items, in buffers (B, heads, max_len, E) that are written
        in place, and `times` then has the times of all items so far. x is a whole history, or the one item that
        follows.
        """
        gate, value, query, key = self._project(x)
        events, requests = times or (None, None)
        if state is None or seen is None or x.shape[1] > 1:
            T = x.shape[1]
            if state is not None:
                keep_first(state, (key, value))
            events = None if events is None else events[:, :T]
            attended = silu_attention(
                query, key, value, self.position_bias, self.time_bias, events, requests, scale=1 / self.max_len
            )
            return (gate, _joined(attended)), state or ()
        (keys, values), lengths = keep_next(state, (key, value), seen)
        events = None if events is None else events[:, : keys.shape[2]]
        requests = None if requests is None else requests[:, 0]
        last = self._attend_last(query.squeeze(2), keys, values, events, requests, lengths)
        return (gate, last.unsqueeze(1)), state

    def mix_last(self, x: Tensor, lengths: Tensor, times: Times | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from the last items alone: x (B, T, D) → x there, and the gate and what is attended there (B, D)."""
        normed = self.input_norm(x)
        gate, value, query, key = self.projection.weight.chunk(4)
        last = at_last(normed, lengths)
        key, value = (self._split(F.silu(F.linear(normed, part))) for part in (key, value))
        query = F.silu(F.linear(last, query)).unflatten(-1, (self.heads, -1))
        events, requests = times or (None, None)
        requests = None if requests is None else at_last(requests, lengths)
        attended = self._attend_last(query, key, value, events, requests, lengths)
        return at_last(x, lengths), (F.silu(F.linear(last, gate)), attended)

    def finish(self, x: Tensor, mixed: tuple[Tensor, Tensor]) -> Tensor:
        """Gate, project and add: (…, D) each → (…, D)."""
        gate, attended = mixed
        result: Tensor = x + self.out(self.dropout(gate * self.attended_norm(attended)))
        return result

    def initial_state(self, batch: int) -> State:
        """Return empty buffers (B, heads, max_len, E) of keys and values."""
        weight = self.out.weight
        shape = (batch, self.heads, self.max_len, len(weight) // self.heads)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gate (B, T, D), and values, queries and keys (B, heads, T, E)."""
        gate, *others = F.silu(self.projection(self.input_norm(x))).chunk(4, dim=-1)
        value, query, key = map(self._split, others)
        return gate, value, query, key

    def _attend_last(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        events: Tensor | None,
        requests: Tensor | None,
        lengths: Tensor | None,
    ) -> Tensor:
        """Return what queries (B, heads, E) of the last items attend to, with the heads side by side, (B, D)."""
        return silu_attention_last(
            query,
            key,
            value,
            self.position_bias,
            self.time_bias,
            events,
            requests,
            lengths=lengths,
            scale=1 / self.max_len,
        ).flatten(1)

    def _split(self, x: Tensor) -> Tensor:
        """Split (B, T, D) into heads, (B, heads, T, E)."""
        result: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return result


def _joined(attended: Tensor) -> Tensor:
    """Return (B, heads, T, E) with the heads side by side, (B, T, D)."""
    return attended.transpose(1, 2).flatten(2)
