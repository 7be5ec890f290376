"""First-order Markov chain: what followed the last item in the training sequences.

The sanity floor for sequential models: one that loses to it has not learned the order of items.
"""

import numpy as np
import torch
from torch import Tensor

from seqbench.data.sequences import Sequences
from seqbench.models.base import CountingModel, ModelConfig, at_last


class Markov(CountingModel):
    """Score of item j after item i = number of times j directly followed i, ties broken by popularity.

    The counts are a sparse matrix in CSR form: `offsets` (V + 1,), `successors` and `weights` (distinct pairs,).
    """

    display_name = "Markov chain"
    summary = "first-order transition counts"
    paper = "(baseline)"
    ragged_buffers = ("successors", "weights")

    def __init__(self, items: int, max_len: int, config: ModelConfig) -> None:
        super().__init__(items, max_len, config)
        self.register_buffer("popularity", torch.zeros(items + 1))
        self.register_buffer("offsets", torch.zeros(items + 2, dtype=torch.long))
        self.register_buffer("successors", torch.zeros(0, dtype=torch.long))
        self.register_buffer("weights", torch.zeros(0))
        self.popularity: Tensor
        self.offsets: Tensor
        self.successors: Tensor
        self.weights: Tensor

    def fit(self, sequences: Sequences) -> None:
        V = self.items + 1
        sources, targets = sequences.training_pairs()
        pairs, counts = np.unique(sources.astype(np.int64) * V + targets, return_counts=True)
        rows = pairs // V
        self.offsets.copy_(torch.from_numpy(np.searchsorted(rows, np.arange(V + 1))))
        device = self.popularity.device
        self.successors = torch.from_numpy(pairs % V).to(device)
        self.weights = torch.from_numpy(counts).to(device, torch.float32)
        popularity = np.bincount(sequences.training_items(), minlength=V)
        # Below one, so that it only decides between equal counts.
        self.popularity.copy_(torch.from_numpy(popularity / (popularity.max() + 1)))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):  # type: ignore[no-untyped-def]
        for name in ("successors", "weights"):  # as many as there are pairs
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(stored, device=self.popularity.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def score(self, items: Tensor, lengths: Tensor) -> Tensor:
        last = at_last(items, lengths)
        scores = self.popularity.repeat(len(items), 1)
        starts, stops = self.offsets[last], self.offsets[last + 1]
        degrees = stops - starts
        rows = torch.repeat_interleave(torch.arange(len(items), device=items.device), degrees)
        firsts = torch.repeat_interleave(starts - degrees.cumsum(0) + degrees, degrees)
        entries = firsts + torch.arange(len(rows), device=items.device)
        scores.index_put_((rows, self.successors[entries]), self.weights[entries], accumulate=True)
        return scores
