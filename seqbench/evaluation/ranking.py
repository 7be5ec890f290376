"""Full ranking: where in the whole catalogue does the next item stand?

For each user two counts are kept: how many items score strictly better than the target, and how many others tie
with it. Every metric at every cut-off follows from them (metrics.py).

Where a model scores by the product of states with an item table, the scores are never held: `rank_counts` and `top_k`
go through them block by block, and the memory of a batch does not grow with the catalogue. A model that scores in its
own way gives all scores of a batch at once.

Shapes: U evaluated users, B batch, V items plus padding, D width, K best items, E items that cannot be recommended.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqbench.data.sequences import Examples, Sequences, pad
from seqbench.distributed import ALONE, Group
from seqbench.errors import Diverged
from seqbench.evaluation.ranks import Ranks
from seqbench.models.base import Model, SequenceModel, device_of, scored_by_table
from seqbench.models.checks import check_shape
from seqbench.models.times import given, times_of
from seqbench.ops import rank_counts, top_k
from seqbench.protocol import REMOVALS, Protocol

BATCH_ROWS = 128
# Scores that are held, (B, V), are kept below this many elements.
BATCH_ELEMENTS = 1 << 24


class _Table(NamedTuple):
    """What states are multiplied with to be scores."""

    items: Tensor  # (V, D)
    bias: Tensor | None  # (V,)


class _Batch(NamedTuple):
    """Rows that are ranked together; all tensors int64, on the model's device."""

    spares_target: bool  # whether a target that cannot be recommended competes nevertheless
    inputs: tuple[Any, ...]  # items (B, T), padded on the right with 0, lengths (B,), and Times if the model uses them
    targets: Tensor  # (B,)
    removed: Tensor  # (B, E) what cannot be recommended, padded with 0


class _Standing(NamedTuple):
    """Where the targets of a batch stand."""

    better: Tensor  # (B,) items with a higher score
    ties: Tensor  # (B,) others with the same
    best: Tensor  # (B, K) ids of the best items, 0 where there are fewer


@torch.inference_mode()
def rank(
    model: Model,
    sequences: Sequences,
    examples: Examples,
    protocol: Protocol,
    top: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    group: Group = ALONE,
) -> Ranks:
    """Rank each example's target among the whole catalogue.

    The model sees the `protocol.max_len` most recent items of each history. What cannot be recommended ranks behind
    everything else; `protocol.removed` says what that is, and whether it holds for the target as well.

    Args:
        top: how many of the best items of each user to keep, as they would be recommended: no removed item is among
            them, not even a target that competes nevertheless. Equal scores are in the order of the items' ids.
        progress: called with the examples that are ranked, and that there are.
        group: processes that have the same model and examples, and rank a share of the batches each.

    Raises:
        SeqbenchError: the states or the scores are not of the shape that they must have.
        Diverged: the model gives a score that is not a number, or infinite.
    """
    device = device_of(model)
    V = sequences.items + 1
    removal = REMOVALS[protocol.removed]
    better = np.zeros(len(examples), dtype=np.int64)
    ties = np.zeros(len(examples), dtype=np.int64)
    best = np.zeros((len(examples), top), dtype=np.int64)
    was_training = model.training
    model.eval()
    table = _table(model, V)
    size = BATCH_ROWS if table else max(1, min(BATCH_ROWS, BATCH_ELEMENTS // V))
    by_length = np.argsort(examples.starts - examples.stops, kind="stable")  # longest first
    for at in range(group.rank * size, len(examples), group.size * size):
        rows = by_length[at : at + size]
        chosen = examples.take(rows)
        rows_of = (
            *pad(sequences.flat, chosen.starts, chosen.stops, protocol.max_len),
            chosen.targets,
            removal.items(sequences, chosen, protocol.max_len),
        )
        items, lengths, targets, removed = (torch.from_numpy(array).to(device) for array in rows_of)
        times = times_of(model, sequences, chosen.starts, chosen.stops, protocol)
        inputs = items, lengths, *given(times and times.to(device))
        batch = _Batch(removal.spares_target, inputs, targets, removed)
        found = _by_states(model, table, batch, top) if table else _by_scores(model, batch, V, top)
        better[rows], ties[rows] = found.better.cpu().numpy(), found.ties.cpu().numpy()
        best[rows, : found.best.shape[1]] = found.best.cpu().numpy()
        progress(at + len(rows), len(examples))
    for counts in (better, ties, *([best] if top else [])):
        group.sum(torch.from_numpy(counts))  # in place; 0 in what others have ranked
    model.train(was_training)
    return Ranks(examples.users, better, ties, best if top else None)


def _table(model: Model, V: int) -> _Table | None:
    """Return what the model multiplies its states with, or None if it scores in its own way.

    A row of padding that is not finite, which makes no score of an item so, is left to the scores as well.
    """
    if (scorer := scored_by_table(model)) is None:
        return None
    items, bias = scorer.item_weights(), scorer.item_bias()
    check_shape(model, "item_weights", items, (V, items.shape[-1]))
    padding = items[:1] if bias is None else torch.cat([items[0], bias[:1]])
    return _Table(items, bias) if bool(torch.isfinite(padding).all()) else None


def _by_states(model: Model, table: _Table, batch: _Batch, top: int) -> _Standing:
    """Rank without holding the scores."""
    assert isinstance(model, SequenceModel)
    states = model.last_states(*batch.inputs)
    check_shape(model, "last_states", states, (len(batch.targets), table.items.shape[1]))
    nothing = batch.removed.new_zeros(len(batch.removed), 1)  # padding is never recommended
    removed = torch.cat([batch.removed, nothing], dim=1)
    best = top_k(states, *table, removed, min(top, len(table.items)))[1] if top else nothing[:, :0]
    if batch.spares_target:
        removed = removed.masked_fill(removed == batch.targets.unsqueeze(1), 0)
    better, ties, finite = rank_counts(states, *table, batch.targets, removed)
    if not finite.all():
        raise _diverged(model)
    return _Standing(better, ties, best)


def _by_scores(model: Model, batch: _Batch, V: int, top: int) -> _Standing:
    """Rank by all scores of the batch."""
    scores = model.score(*batch.inputs)
    check_shape(model, "score", scores, (len(batch.targets), V))
    scores = scores.float()
    if not torch.isfinite(scores[:, 1:]).all():
        raise _diverged(model)
    scores = scores.clone()  # may be an expanded view
    scores[:, 0] = -torch.inf
    targets = batch.targets.unsqueeze(1)
    target_scores = scores.gather(1, targets)
    scores.scatter_(1, batch.removed, -torch.inf)
    best = highest(scores, min(top, V))[1] if top else targets[:, :0]
    if batch.spares_target:
        scores.scatter_(1, targets, target_scores)
    else:
        target_scores = scores.gather(1, targets)
    return _Standing((scores > target_scores).sum(dim=1), (scores == target_scores).sum(dim=1) - 1, best)


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest of the scores (B, V), (B, count) by score, and their ids, equal ones by id; 0 where -inf."""
    last = scores.topk(count, dim=1).values[:, -1:]
    above, level = scores > last, scores == last
    chosen = above | (level & (level.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))
    ids = chosen.nonzero()[:, 1].view(len(scores), count)  # in order of ids, which a stable sort keeps
    values, order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, order).where(values > -torch.inf, 0)


def _diverged(model: Model) -> Diverged:
    return Diverged(f"A score of {type(model).__name__}")
