"""The accuracy of the process that generated synthetic data: what no model can beat in expectation."""

import numpy as np

from seqbench.data.synthetic import BLOCK, Generated
from seqbench.evaluation import metrics

MIN_LEFT = 3  # items of a user: one to train on, one to validate, one to test
MIN_USERS = 500
PAIRS = 1 << 28  # users and items that are looked at: with more there are, a sample of the users says it, too


def ranked_users(generated: Generated, users: np.ndarray) -> np.ndarray:
    """The users (U',) that the ceiling is of: all, or a sample, always the same, where all would take too long."""
    count = max(MIN_USERS, PAIRS // generated.process.items)
    if len(users) <= count:
        return users
    return np.sort(np.random.default_rng(0).choice(users, count, replace=False))


def ceiling(generated: Generated, items: np.ndarray, users: np.ndarray, back: int) -> dict[str, float]:
    """The accuracy of ranking by p: what the best possible model reaches in expectation.

    Args:
        generated: what was drawn.
        items: (V',) the items, from 0, that filtering left: the candidates.
        users: (U',) the users, from 0, whose accuracy is the mean.
        back: 1 ranks each user's last item that is left (the test of leave-one-out), 2 the one before.

    Returns:
        "hr@10", "ndcg@10", "mrr@10" and so on → mean over the users with enough items for leave-one-out;
        empty if there is none. Equal probabilities count in expectation.
    """
    left = np.zeros(generated.process.items, bool)
    left[items] = True
    better, ties = [], []
    step = max(1, BLOCK // generated.process.items // 8)
    for start in range(0, len(users), step):
        block = users[start : start + step]
        histories = generated.histories(block)
        kept = left[histories] & (np.arange(histories.shape[1]) < generated.lengths[block][:, None])
        enough = kept.sum(axis=1) >= MIN_LEFT
        histories, kept = histories[enough], kept[enough]
        # From the right, the place of the `back`-th item that is left; all before it is the history.
        places = np.argmax(np.cumsum(kept[:, ::-1], axis=1) == back, axis=1)
        places = histories.shape[1] - 1 - places
        scores = generated.process.probabilities(histories, places)
        rows = np.arange(len(histories))
        target = scores[rows, histories[rows, places]][:, None]
        candidates = left & (scores > 0)
        better.append(((scores > target) & candidates).sum(axis=1))
        ties.append(((scores == target) & candidates).sum(axis=1) - 1)
    if not sum(map(len, better)):
        return {}
    return metrics.means(np.concatenate(better), np.concatenate(ties))
