"""Protocols: what the names stand for, their words, their checks, and how one is added."""

import pytest

from seqbench.errors import UsageError
from seqbench.protocol import Protocol, choose


def test_protocol() -> None:
    assert choose("fair", split="temporal", max_len=7) == Protocol(split="temporal", max_len=7)
    with pytest.raises(UsageError, match="Did you mean leave-one-out"):
        choose("fair", split="leave-on-out", max_len=7)
    with pytest.raises(UsageError, match="Did you mean recbole"):
        choose("recbol", split="temporal", max_len=7)
    with pytest.raises(UsageError, match="no next item to train on"):
        choose("lrurec", split="temporal", max_len=1)


@pytest.mark.parametrize(
    ("name", "removed", "selection"),
    [("fair", "history", "ndcg@10"), ("lrurec", "window", "hr@10"), ("recbole", "nothing", "ndcg@10")],
)
def test_protocols_are_what_their_sources_do(name: str, removed: str, selection: str) -> None:
    found = choose(name, split="leave-one-out", max_len=50)
    assert (found.name, found.removed, found.selection) == (name, removed, selection)
    assert (found.windows == "lrurec") == (name == "lrurec")
