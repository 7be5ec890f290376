"""Full ranking: where in the whole catalogue does the next item stand?

For each user two counts are kept: how many items score strictly better than the target, and how many others tie
with it. Every metric at every cut-off follows from them (metrics.py).

Shapes: U evaluated users, B batch, V items plus padding.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from seqbench import columns
from seqbench.data.sequences import Examples, Sequences, pad
from seqbench.errors import Diverged
from seqbench.evaluation import metrics
from seqbench.files import replacing
from seqbench.models.base import Model, check_shape
from seqbench.protocol import Protocol

# Scores of one batch, (B, V), are kept below this many elements.
BATCH_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Ranks:
    """Per evaluated user: items ranked strictly better than the target, and others tied with it."""

    users: NDArray[np.int64]  # (U,)
    better: NDArray[np.int64]  # (U,)
    ties: NDArray[np.int64]  # (U,)

    def metrics(self) -> dict[str, float]:
        """Means over users of HR, NDCG and MRR at each cut-off."""
        return metrics.means(self.better, self.ties)

    def per_user(self, metric: str) -> NDArray[np.float64]:
        """(U,) expected value of a metric such as "ndcg@10" under random tie-breaking."""
        return metrics.per_user(metric, self.better, self.ties)

    def write(self, path: Path) -> None:
        """Store as Parquet: user, better, ties."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                columns.USER: self.users.astype(np.int32),
                columns.BETTER: self.better.astype(np.int32),
                columns.TIES: self.ties.astype(np.int32),
            }
        )
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> "Ranks":
        """Read what `write` stored."""
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        names = (columns.USER, columns.BETTER, columns.TIES)
        return cls(*(table[name].to_numpy().astype(np.int64) for name in names))


@torch.inference_mode()
def rank(model: Model, sequences: Sequences, examples: Examples, protocol: Protocol) -> Ranks:
    """Rank each example's target among the whole catalogue.

    The model sees the `protocol.max_len` most recent items of each history. What cannot be recommended ranks behind
    everything else, `protocol.removed`:
        "history": items anywhere in the user's history, but for a target that is itself in it.
        "window": items that the model sees, even the target, as in the code of LRURec.
        "nothing": the whole catalogue competes.

    Raises:
        SeqbenchError: the scores are not of the shape (rows, V).
        Diverged: the model gives a score that is not a number, or infinite.
    """
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    V = sequences.items + 1
    better = np.zeros(len(examples), dtype=np.int64)
    ties = np.zeros(len(examples), dtype=np.int64)
    was_training = model.training
    model.eval()
    by_length = np.argsort(examples.starts - examples.stops, kind="stable")  # longest first
    size = max(1, min(128, BATCH_ELEMENTS // V))
    for at in range(0, len(examples), size):
        rows = by_length[at : at + size]
        starts, stops = examples.starts[rows], examples.stops[rows]
        items, lengths = pad(sequences.flat, starts, stops, protocol.max_len)
        targets = torch.from_numpy(examples.targets[rows]).to(device).unsqueeze(1)
        scores = model.score(torch.from_numpy(items).to(device), torch.from_numpy(lengths).to(device))
        check_shape(model, "score", scores, (len(rows), V))
        scores = scores.float()
        if not torch.isfinite(scores[:, 1:]).all():
            raise Diverged(f"A score of {type(model).__name__}")
        target_scores = scores.gather(1, targets)
        scores = scores.clone()  # may be an expanded view
        scores[:, 0] = -torch.inf
        if protocol.removed == "window":
            scores.scatter_(1, torch.from_numpy(items).to(device), -torch.inf)
            target_scores = scores.gather(1, targets)
        elif protocol.removed == "history":
            seen, _ = pad(sequences.flat, starts, stops)
            scores.scatter_(1, torch.from_numpy(seen).to(device), -torch.inf)
            scores.scatter_(1, targets, target_scores)
        better[rows] = (scores > target_scores).sum(dim=1).cpu().numpy()
        ties[rows] = (scores == target_scores).sum(dim=1).cpu().numpy() - 1
    model.train(was_training)
    return Ranks(examples.users, better, ties)
