"""Times as an input: when the items of a history were taken, and when the next one is asked for.

A model whose config says `uses_times` is given `Times` as one more argument, behind all others; no other model is.

- Times are seconds since 1970, int64, so that their differences are exact; finer ones are cut to whole seconds. Floats
  would not do: float32 has steps of 128 s there.
- Items of the same second have the same time. Times never decrease along a history, but where a data set is in the
  order of rounded times (`prepare --ties recbole`): differences may then be below 0 by a minute or two.
- Where a data set has only an order, all times are 0.
- At padding they are 0 and mean nothing.

What a state may depend on: the state at p on the items, the events and the requests up to p. Whether the request at p
is the time of item p + 1, which in a test is that of the target, or no more than the time of item p itself, is not the
model's choice but the protocol's (`Protocol.request_time`).

Shapes: B batch, T time.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqbench.data.sequences import Ints, Sequences, pad

if TYPE_CHECKING:
    from seqbench.models.base import Model
    from seqbench.protocol import Protocol

LONGEST_GAP = 30 * 86_400  # seconds, of `synthetic_times`


class Times(NamedTuple):
    """Seconds of each position of some histories: both (B, T), or (B,) where an item is appended."""

    events: Tensor  # when the item was taken
    requests: Tensor  # when the one after it is asked for, as far as the model may know that; else `events`

    def part(self, *index: slice | int | Tensor | None) -> "Times":
        """Return the times at an index, such as part(slice(None), 3)."""
        return Times(self.events[index], self.requests[index])

    def later(self, *index: slice | int) -> "Times":
        """Return the times with those at an index a day later."""
        moved = self.events.clone(), self.requests.clone()
        for each in moved:
            each[index] += 86_400
        return Times(*moved)

    def to(self, device: torch.device) -> "Times":
        """Copy the times to a device."""
        return Times(self.events.to(device), self.requests.to(device))


def given(times: Times | None) -> tuple[Times, ...]:
    """Return times as what is passed behind other arguments: nothing to a model that uses none."""
    return () if times is None else (times,)


def times_of(model: "Model", sequences: Sequences, starts: Ints, stops: Ints, protocol: "Protocol") -> Times | None:
    """Return what a model may know of the times of histories; None if it uses none.

    Args:
        starts, stops: (B,) ranges of `sequences.flat`, of which the last `protocol.max_len` positions count; what is to
            be predicted of each stands at its stop.
    """
    if not model.config.uses_times:
        return None
    starts = np.maximum(starts, stops - protocol.max_len)
    known = np.broadcast_to(np.int64(0), len(sequences.flat)) if sequences.times is None else sequences.times
    events = torch.from_numpy(pad(known, starts, stops)[0])
    if not protocol.request_time:
        return Times(events, events)
    return Times(events, torch.from_numpy(pad(known, starts + 1, stops + 1)[0]))


def synthetic_times(model: "Model", items: Tensor) -> Times | None:
    """Return times for items (B, T) of nobody, to measure with: gaps of seconds to weeks. None if it uses none."""
    if not model.config.uses_times:
        return None
    gaps = torch.arange(items.shape[1], device=items.device).square() * 7919 % LONGEST_GAP
    events = gaps.cumsum(0).expand(items.shape)
    return Times(events, events)
