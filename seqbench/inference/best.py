"""The best items of many histories, in batches of similar lengths.

Shapes: N histories, B batch, T time, D width, V items plus padding, K best items, E excluded items of a history.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seqbench.data.sequences import Ints, pad
from seqbench.errors import Diverged
from seqbench.evaluation.ranking import highest
from seqbench.models.base import Model, SequenceModel, device_of, scored_by_table
from seqbench.models.times import Times
from seqbench.ops import top_k

BATCH = 256


@dataclass(frozen=True)
class Histories:
    """Item numbers of N histories, oldest first: history n is flat[offsets[n] : offsets[n + 1]].

    Times are in seconds since 1970, and None where they are not known.
    """

    flat: NDArray[np.int32]
    offsets: Ints  # (N + 1,)
    times: Ints | None = None  # of the items, as `flat`
    requests: Ints | None = None  # (N,) when the next item is asked for

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """Return the number of items of each history, (N,)."""
        return np.diff(self.offsets)

    def padded(self, rows: Ints, max_len: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the newest `max_len` items of some histories, (B, T) padded on the right, and the lengths (B,)."""
        flat = self.flat if len(self.flat) else np.zeros(1, np.int32)  # which is indexed even where nothing is taken
        items, lengths = pad(flat, self.offsets[rows], self.offsets[rows + 1], max_len)
        return torch.from_numpy(items), torch.from_numpy(lengths)

    def inputs(self, rows: Ints, model: Model) -> tuple[Any, ...]:
        """Return what a model encodes of some histories: items (B, T), lengths (B,), and times if it uses them."""
        device = device_of(model)
        items, lengths = self.padded(rows, model.max_len)
        if not model.config.uses_times:
            return items.to(device), lengths.to(device)
        times = np.zeros(max(1, len(self.flat)), np.int64) if self.times is None else self.times
        events = torch.from_numpy(pad(times, self.offsets[rows], self.offsets[rows + 1], model.max_len)[0])
        requests = events
        if self.requests is not None:
            requests = events.roll(-1, dims=1)
            requests[torch.arange(len(rows)), lengths - 1] = torch.from_numpy(self.requests[rows])
        return items.to(device), lengths.to(device), Times(events, requests).to(device)

    @classmethod
    def of(
        cls, rows: list[list[int]], times: list[list[int]] | None = None, requests: Ints | None = None
    ) -> "Histories":
        """Return the histories of lists of item numbers, and of the times of those items."""
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(rows), np.int32, count=int(offsets[-1]))
        seconds = None if times is None else np.fromiter(chain.from_iterable(times), np.int64, count=len(flat))
        return cls(flat, offsets, seconds, requests)


@torch.inference_mode()
def best_items(
    model: Model,
    histories: Histories,
    k: int,
    *,
    excluded: Histories,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[Ints, NDArray[np.float32]]:
    """Return the k best items of every history, best first, as numbers (N, K) and scores (N, K).

    Where fewer items are left, and for a history without items, numbers are 0.

    Args:
        model: in evaluation mode; it sees the newest `max_len` items.
        excluded: of each history, the items that are not recommended.
        advance: told how many histories are done, batch by batch.

    Raises:
        Diverged: the model gives states or scores that are not finite.
    """
    device, table = device_of(model), scored_by_table(model)
    ids = np.zeros((len(histories), k), dtype=np.int64)
    scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
    order = np.argsort(-histories.lengths, kind="stable")
    order = order[histories.lengths[order] > 0]
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]
        inputs = histories.inputs(rows, model)
        left_out = excluded.padded(rows)[0].to(device)
        if table is None:
            found = _best_of_scores(model, model.score(*inputs).float(), left_out, k)
        else:
            found = best_of_states(table, table.last_states(*inputs), left_out, k)
        scores[rows], ids[rows] = (each.cpu().numpy() for each in found)
        advance(len(rows))
    return ids, scores


def best_of_states(model: SequenceModel, states: Tensor, excluded: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return scores (B, K) and numbers (B, K) of the best items for states (B, D), excluded ones (B, E) left out."""
    if not torch.isfinite(states).all():
        raise Diverged(f"A state of {type(model).__name__}")
    padding = excluded.new_zeros(len(excluded), 1)
    bias = model.item_bias()
    return top_k(states, model.item_weights(), bias, torch.cat([padding, excluded], dim=1), k)


def _best_of_scores(model: Model, scores: Tensor, excluded: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the same for scores (B, V); of equal ones the lower number first."""
    if not torch.isfinite(scores[:, 1:]).all():
        raise Diverged(f"A score of {type(model).__name__}")
    scores = scores.scatter(1, excluded, -torch.inf)
    scores[:, 0] = -torch.inf
    values, ids = highest(scores, min(k, scores.shape[1]))
    missing = (0, k - values.shape[1])
    return F.pad(values, missing, value=-torch.inf), F.pad(ids, missing)
