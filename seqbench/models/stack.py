"""Stacks of blocks over item embeddings, and what a block is.

A block mixes over time, then finishes every position by itself:

    mixed = block.mix(x),   x ← block.finish(x, mixed)

Scoring and training on prefixes need the state at the last item alone. The last block then takes x and `mixed` there
(`mix_last`), and finishes one position of each row.

Shapes: B batch, T time, D width, E what a block mixes, V items plus padding.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from seqbench.models.base import IncrementalModel, NeuralConfig, SequenceModel, State, at_last
from seqbench.models.times import Times
from seqbench.ops.dropout import Dropout

POSITIONS = ("newest", "oldest")  # from which item of a history positions can count


class Block(nn.Module):
    """A layer of a sequence model.

    `mix` and `mix_last` take what their model's `enter` returns beside x, by keyword, and `times` if the model uses
    them. In an `IncrementalStack` `mix` also takes `state`, which the block is in, and `lengths` (B,), how many of the
    T positions of each row count; all if None.
    """

    def mix(self, x: Tensor, *context: Any, **named: Any) -> tuple[Any, State]:
        """Mix over time: x (B, T, D) → (B, T, E), and the state after the last position (empty if there is none)."""
        raise NotImplementedError

    def mix_last(self, x: Tensor, lengths: Tensor, *context: Any, **named: Any) -> tuple[Tensor, Any]:
        """Mix for the last items alone: x (B, T, D), lengths (B,) → x (B, D) and what was mixed (B, E) there.

        A block in which not every position needs to ask, or to be gated, overrides it.
        """
        mixed, _ = self.mix(x, *context, **named)
        return at_last(x, lengths), at_last(mixed, lengths)

    def finish(self, x: Tensor, mixed: Any) -> Tensor:
        """Finish positions one by one: x (…, D), mixed (…, E) → (…, D)."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        """Return the state before the first item, tensors (B, …) on the block's device."""
        raise NotImplementedError


class Stack(SequenceModel):
    """Blocks over item embeddings, scored with tied weights."""

    embedding: nn.Embedding
    blocks: nn.ModuleList

    @abstractmethod
    def enter(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return what enters the first block, (B, T, D), and what `mix` of every block is told beside it."""

    def leave(self, x: Tensor) -> Tensor:
        """Return states (…, D), which items are scored with, for what leaves the last block: the same."""
        return x

    def forward(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        x, context = self.enter(items, lengths)
        context |= named(times)
        for block in self.layers:
            x = block.finish(x, block.mix(x, **context)[0])
        return self.leave(x)

    def last_states(self, items: Tensor, lengths: Tensor, times: Times | None = None) -> Tensor:
        x, context = self.enter(items, lengths)
        context |= named(times)
        *before, final = self.layers
        for block in before:
            x = block.finish(x, block.mix(x, **context)[0])
        return self.leave(final.finish(*final.mix_last(x, lengths, **context)))

    def item_weights(self) -> Tensor:
        return self.embedding.weight

    @property
    def layers(self) -> list[Block]:
        """The blocks, from the first to the last."""
        return cast(list[Block], list(self.blocks))


class IncrementalStack(Stack, IncrementalModel):
    """A stack whose blocks can go on from the state after an item."""

    def initial_state(self, batch: int) -> State:
        """Return the states of the blocks before the first item, one after the other."""
        return tuple(tensor for block in self.layers for tensor in block.initial_state(batch))

    def step(self, items: Tensor, state: State, times: Times | None = None) -> tuple[Tensor, State]:
        columns = None if times is None else times.part(slice(None), None)
        x, after = self._append(items.unsqueeze(1), state, None, **named(columns))
        return self.leave(x.squeeze(1)), after

    def _prefill(self, items: Tensor, start: State, lengths: Tensor | None, times: Times | None = None) -> State:
        return self._append(items, start, lengths, **named(times))[1]

    @abstractmethod
    def _append(self, items: Tensor, state: State, lengths: Tensor | None, **times: Times) -> tuple[Tensor, State]:
        """Return what leaves the last block, (B, T, D), for items (B, T) that follow those in `state`, and the state.

        With more than one item `state` is the initial one; `lengths` (B,) then says how many of each row count.
        `times` (B, T), if any, are for the blocks.
        """

    def _run(self, x: Tensor, state: State, **context: Any) -> tuple[Tensor, State]:
        """Run the blocks on x (B, T, D), each from its own state; `mix` of each is told the context."""
        size = len(state) // len(self.layers)
        after: list[Tensor] = []
        for at, block in enumerate(self.layers):
            mixed, new = block.mix(x, state=state[at * size : (at + 1) * size], **context)
            x = block.finish(x, mixed)
            after += new
        return x, tuple(after)


def named(times: Times | None) -> dict[str, Times]:
    """Return times as `mix` takes them; nothing if there are none."""
    return {} if times is None else {"times": times}


class RecurrentStack(IncrementalStack):
    """Recurrent blocks: x = LayerNorm(dropout(E[i])), then x ← block(x) for every block.

    A subclass gives the blocks and draws the initial weights.
    """

    def __init__(
        self, items: int, max_len: int, config: NeuralConfig, blocks: Iterable[Block], *, norm_eps: float
    ) -> None:
        super().__init__(items, max_len, config)
        self.embedding = nn.Embedding(items + 1, config.hidden_size)
        self.embedding_norm = nn.LayerNorm(config.hidden_size, eps=norm_eps)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)

    def enter(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return self.embed(items), {}

    def _append(self, items: Tensor, state: State, lengths: Tensor | None, **times: Times) -> tuple[Tensor, State]:
        return self._run(self.embed(items), state, lengths=lengths, **times)

    def embed(self, items: Tensor) -> Tensor:
        """Return what enters the first block, (B, T, D), for items (B, T)."""
        result: Tensor = self.embedding_norm(self.dropout(self.embedding(items)))
        return result


class PositionedStack(IncrementalStack):
    """Blocks that learn positions: x = dropout(LayerNorm(E[i] + P[position])), then x ← block(x) for every block.

    Where positions count from the oldest item, a history ends at max_len items: without the oldest, every position
    would change, and every state with it. The caller then starts anew from the items that it wants to keep.

    A subclass gives the blocks and draws the initial weights.

    Args:
        norm_eps: of the LayerNorm; None for no LayerNorm.
    """

    ends_at_max_len = True

    def __init__(
        self, items: int, max_len: int, config: NeuralConfig, blocks: Iterable[Block], *, norm_eps: float | None
    ) -> None:
        super().__init__(items, max_len, config)
        D = config.hidden_size
        self.embedding = nn.Embedding(items + 1, D, padding_idx=0)
        self.positions = nn.Embedding(max_len, D)
        self.embedding_norm = nn.Identity() if norm_eps is None else nn.LayerNorm(D, eps=norm_eps)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)

    def enter(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if self.config.positions == "newest":
            before = lengths.unsqueeze(1) - 1 - torch.arange(items.shape[1], device=items.device)
            return self._embed_at(items, self.positions(before.clamp_min(0))), {}
        return self.embed(items), {}

    def initial_state(self, batch: int) -> State:
        """Return how many items the histories have, int64 (B,), and the states of the blocks."""
        seen = torch.zeros(batch, dtype=torch.int64, device=self.embedding.weight.device)
        return seen, *super().initial_state(batch)

    def check_state(self, state: State, batch: int) -> None:
        super().check_state(state, batch)
        if batch and not 0 <= int(state[0].min()) <= int(state[0].max()) <= self.max_len:
            raise ValueError(f"a history does not have 0 to {self.max_len} items")

    def embed(self, items: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return what enters the first block, (B, T, D), for items (B, T) that follow `seen` (B,) others.

        Raises:
            ValueError: an item has a position behind max_len.
        """
        T = items.shape[1]
        if seen is None:
            if self.max_len < T:
                raise self._too_long(T)
            return self._embed_at(items, self.positions.weight[:T])
        if seen.device.type != "cpu" and len(seen) and not torch.compiler.is_compiling():
            self._check_room(seen, T)  # where a lookup that fails would end the process
        try:
            positions = self.positions(seen.unsqueeze(1) + torch.arange(T, device=items.device))
        except IndexError:
            self._check_room(seen, T)
            raise
        return self._embed_at(items, positions)

    def _check_room(self, seen: Tensor, T: int) -> None:
        end = int(seen.max()) + T
        if end > self.max_len:
            raise self._too_long(end)

    def _too_long(self, length: int) -> ValueError:
        name = type(self).__name__
        return ValueError(f"{name} with max_len {self.max_len} has no position for item {length} of a history")

    def _embed_at(self, items: Tensor, positions: Tensor) -> Tensor:
        """Return what enters the first block for items (B, T) with embeddings of positions (T, D) or (B, T, D)."""
        result: Tensor = self.dropout(self.embedding_norm(self.embedding(items) + positions))
        return result

    def _append(self, items: Tensor, state: State, lengths: Tensor | None, **times: Times) -> tuple[Tensor, State]:
        seen, *blocks = state
        x, after = self._run(self.embed(items, seen), tuple(blocks), lengths=lengths, seen=seen, **times)
        return x, (seen + (items.shape[1] if lengths is None else lengths), *after)
