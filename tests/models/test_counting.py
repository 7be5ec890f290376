"""What the models that only count put first."""

import numpy as np
import torch

from seqbench.data.sequences import Sequences, split_sequences
from seqbench.models.base import ModelConfig
from seqbench.models.markov import Markov
from seqbench.models.popularity import Popularity


def sequences_of(*histories: list[int]) -> Sequences:
    """Histories of training items; two more items of each user are held out."""
    whole = [[*history, 1, 1] for history in histories]
    users = np.repeat(np.arange(1, len(whole) + 1), [len(each) for each in whole]).astype(np.int32)
    items = np.concatenate(whole).astype(np.int32)
    return split_sequences(users, items, np.arange(len(items)), split="leave-one-out")


def ordered(model: Markov | Popularity, *history: int) -> list[int]:
    """The items from the highest score to the lowest."""
    items = torch.tensor([[*history, 0, 0]])  # padded
    scores = model.score(items, torch.tensor([len(history)]))[0, 1:]
    return (scores.argsort(descending=True, stable=True) + 1).tolist()


def test_what_followed_once_comes_before_what_is_frequent_but_never_followed() -> None:
    sequences = sequences_of([1, 2], [3, 3, 3, 3, 3, 4], [1, 5], [1, 5])
    model = Markov(sequences.items, 5, ModelConfig())
    model.fit(sequences)
    assert ordered(model, 4, 1) == [5, 2, 3, 1, 4]  # twice, once, then by frequency


def test_equal_transition_counts_are_in_order_of_frequency() -> None:
    sequences = sequences_of([1, 2], [1, 3], [3, 4])
    model = Markov(sequences.items, 5, ModelConfig())
    model.fit(sequences)
    assert ordered(model, 1)[:2] == [3, 2]


def test_a_transition_across_users_does_not_count() -> None:
    sequences = sequences_of([1, 2], [4, 1])
    model = Markov(sequences.items, 5, ModelConfig())
    model.fit(sequences)
    scores = model.score(torch.tensor([[2]]), torch.tensor([1]))[0]
    assert float(scores.max()) < 1


def test_popularity_ignores_the_history() -> None:
    sequences = sequences_of([2, 2, 2, 3], [3, 4])
    model = Popularity(sequences.items, 5, ModelConfig())
    model.fit(sequences)
    assert ordered(model, 4) == ordered(model, 1, 2) == [2, 3, 4, 1]
