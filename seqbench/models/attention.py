"""Causal multi-head softmax attention as the mixing part of a block, with keys and values that steps keep.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin. "Attention Is All You Need", NeurIPS 2017,
section 3.2.

Shapes: B batch, T time, D width, E = D / heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import State, at_last
from seqbench.models.stack import Block
from seqbench.ops.attention import causal_attention


class SelfAttention(Block):
    """The attention of a block; a subclass says how a position is finished, which projects with `attention_out`.

    Padding needs no mask where every position asks: it is on the right, where a causal query never looks.

    Args:
        dropout: on the attention probabilities.
    """

    def __init__(self, hidden_size: int, *, heads: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.max_len = max_len
        self.attention_dropout = dropout
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)  # rows: queries, keys, values
        self.attention_out = nn.Linear(hidden_size, hidden_size)

    def prepare(self, x: Tensor) -> Tensor:
        """Return what queries, keys and values are made of, (B, T, D): x, or its LayerNorm where that comes first."""
        return x

    def mix(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Attend from every position of x (B, T, D): (B, T, D), not yet projected, and the state with x.

        The state is the keys and the values of `seen` (B,) items, in buffers (B, heads, max_len, E) that are written
        in place: copying them would take longer than to attend. x is a whole history, or the one item that follows.
        """
        query, key, value = self._split(self.qkv(self.prepare(x)), 3)
        if state is None or seen is None:
            return self._attend(query, key, value, None), ()
        if x.shape[1] > 1:  # nothing was seen before
            keep_first(state, (key, value))
            return self._attend(query, key, value, None), state
        (keys, values), lengths = keep_next(state, (key, value), seen)
        return self._attend(query, keys, values, lengths), state

    def mix_last(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from the last items alone: x (B, T, D) → x (B, D) there, and what they attend to (B, D)."""
        D = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        prepared = self.prepare(x)
        (query,) = self._split(F.linear(at_last(prepared, lengths).unsqueeze(1), weight[:D], bias[:D]), 1)
        key, value = self._split(F.linear(prepared, weight[D:], bias[D:]), 2)
        return at_last(x, lengths), self._attend(query, key, value, lengths).squeeze(1)

    def initial_state(self, batch: int) -> State:
        """Return empty buffers (B, heads, max_len, E) of keys and values."""
        weight = self.attention_out.weight
        shape = (batch, self.heads, self.max_len, len(weight) // self.heads)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
        """Return softmax attention with the heads side by side, (B, T, D), of queries (B, heads, T, E)."""
        attended = causal_attention(
            query, key, value, dropout=self.attention_dropout, training=self.training, lengths=lengths
        )
        return attended.transpose(1, 2).flatten(-2)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, T, parts · D) into that many (B, heads, T, E)."""
        result: tuple[Tensor, ...] = projected.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return result


def keep_first(buffers: State, new: tuple[Tensor, ...]) -> None:
    """Write the first T positions, (B, heads, T, E) each, into buffers (B, heads, max_len, E), in place."""
    for buffer, each in zip(buffers, new, strict=True):
        buffer[:, :, : each.shape[2]] = each


def keep_next(buffers: State, new: tuple[Tensor, ...], seen: Tensor) -> tuple[State, Tensor | None]:
    """Write one position, (B, heads, 1, E) each, behind `seen` (B,) others into buffers (B, heads, max_len, E).

    Returns:
        The part of the buffers that has anything in it, (B, heads, T, E), and how many positions of each row count,
        (B,); None if all T do.
    """
    rows = torch.arange(seen.shape[0], device=seen.device)
    for buffer, each in zip(buffers, new, strict=True):
        buffer[rows, :, seen] = each.squeeze(2).to(buffer.dtype)
    if torch.compiler.is_compiling() or len(seen) == 0:  # a graph has no numbers to look at
        return buffers, seen + 1
    shortest, longest = map(int, seen.aminmax())
    filled = tuple(buffer[:, :, : longest + 1] for buffer in buffers)
    return filled, None if shortest == longest else seen + 1
