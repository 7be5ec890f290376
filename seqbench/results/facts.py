"""What a record says of the data set."""

import numpy as np

from seqbench.data.prepared import PreparedDataset
from seqbench.data.sequences import Sequences
from seqbench.protocol import Protocol
from seqbench.results.records import DatasetFacts


def dataset_facts(prepared: PreparedDataset, sequences: Sequences, protocol: Protocol) -> DatasetFacts:
    """Return the record's `dataset` section."""
    meta, test = prepared.meta, sequences.test()
    return {
        "title": meta["title"],
        "users": prepared.users,
        "items": prepared.items,
        "interactions": prepared.interactions,
        "filters": prepared.filters.words(),
        "evaluated_users": len(test),
        "untrained_targets": int((~np.isin(test.targets, sequences.training_items())).sum()),
        "training_pairs": len(sequences.training_pairs()[0]),
        "count_mismatch": meta["count_mismatch"],
        "times": prepared.has_times,
        "ceiling": meta.get("ceiling") if (protocol.split, protocol.removed) == ("leave-one-out", "history") else None,
    }
