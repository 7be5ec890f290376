"""Full ranking: where in the whole catalogue does the next item stand?

For each user two counts are kept: how many items score strictly better than the target, and how many others tie
with it. Every metric at every cut-off follows from them (metrics.py).

Shapes: U evaluated users, B batch, V items plus padding, K best items.
"""

import numpy as np
import torch
from torch import Tensor

from seqbench.data.sequences import Examples, Sequences, pad
from seqbench.errors import Diverged
from seqbench.evaluation.ranks import Ranks
from seqbench.models.base import Model
from seqbench.models.checks import check_shape
from seqbench.protocol import REMOVALS, Protocol

# Scores of one batch, (B, V), are kept below this many elements.
BATCH_ELEMENTS = 1 << 24


@torch.inference_mode()
def rank(model: Model, sequences: Sequences, examples: Examples, protocol: Protocol, top: int = 0) -> Ranks:
    """Rank each example's target among the whole catalogue.

    The model sees the `protocol.max_len` most recent items of each history. What cannot be recommended ranks behind
    everything else; `protocol.removed` says what that is, and whether it holds for the target as well.

    Args:
        top: how many of the best items of each user to keep, as they would be recommended: no removed item is among
            them, not even a target that competes nevertheless. Equal scores are in the order of the items' ids.

    Raises:
        SeqbenchError: the scores are not of the shape (rows, V).
        Diverged: the model gives a score that is not a number, or infinite.
    """
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    V = sequences.items + 1
    removal = REMOVALS[protocol.removed]
    better = np.zeros(len(examples), dtype=np.int64)
    ties = np.zeros(len(examples), dtype=np.int64)
    best = np.zeros((len(examples), top), dtype=np.int64)
    was_training = model.training
    model.eval()
    by_length = np.argsort(examples.starts - examples.stops, kind="stable")  # longest first
    size = max(1, min(128, BATCH_ELEMENTS // V))
    for at in range(0, len(examples), size):
        rows = by_length[at : at + size]
        batch = examples.take(rows)
        items, lengths = pad(sequences.flat, batch.starts, batch.stops, protocol.max_len)
        scores = model.score(torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device))
        check_shape(model, "score", scores, (len(rows), V))
        scores = scores.float()
        if not torch.isfinite(scores[:, 1:]).all():
            raise Diverged(f"A score of {type(model).__name__}")
        scores = scores.clone()  # may be an expanded view
        scores[:, 0] = -torch.inf
        targets = torch.from_numpy(batch.targets).to(device).unsqueeze(1)
        target_scores = scores.gather(1, targets)
        removed = torch.from_numpy(removal.items(sequences, batch, protocol.max_len)).to(device)
        scores.scatter_(1, removed, -torch.inf)
        if top:
            best[rows, : min(top, V)] = _best(scores, min(top, V)).cpu().numpy()
        if removal.spares_target:
            scores.scatter_(1, targets, target_scores)
        else:
            target_scores = scores.gather(1, targets)
        better[rows] = (scores > target_scores).sum(dim=1).cpu().numpy()
        ties[rows] = (scores == target_scores).sum(dim=1).cpu().numpy() - 1
    model.train(was_training)
    return Ranks(examples.users, better, ties, best if top else None)


def _best(scores: Tensor, count: int) -> Tensor:
    """Return the (B, count) ids of the highest of the scores (B, V), equal ones by id; 0 for those that are -inf."""
    last = scores.topk(count, dim=1).values[:, -1:]
    above, level = scores > last, scores == last
    chosen = above | (level & (level.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))
    ids = chosen.nonzero()[:, 1].view(len(scores), count)  # in order of ids, which a stable sort keeps
    values, order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order).where(values > -torch.inf, 0)
