"""`seqbench data`: figures worked out by hand, and a plot."""

import builtins
import json
from pathlib import Path
from typing import Any

import datakit
import pytest

from seqbench.data.describe import describe
from seqbench.data.prepare import prepare
from seqbench.data.prepared import PreparedDataset
from seqbench.errors import SeqbenchError, StorageError
from seqbench.show.dataset_plot import plot
from tests.kit import Bench

DAY = 86_400


@pytest.fixture
def small(tmp_path: Path) -> PreparedDataset:
    """User 1 meets a a b c on days 1 1 2 9, user 2 b a on days 3 4, user 3 c b d on days 5 6 7."""
    rows = [(1, "a", 1), (1, "a", 1), (1, "b", 2), (1, "c", 9), (2, "b", 3), (2, "a", 4)]
    rows += [(3, "c", 5), (3, "b", 6), (3, "d", 7)]
    path = tmp_path / "x.csv"
    path.write_text("user,item,time\n" + "".join(f"{user},{item},{day * DAY}\n" for user, item, day in rows))
    return prepare("small", raw=path, home=tmp_path / "home")


def test_by_hand(small: PreparedDataset) -> None:
    found = describe(small)
    assert (found.users, found.items, found.interactions) == (3, 4, 9)
    assert found.density == pytest.approx(9 / 12)
    assert found.mean_length == 3
    assert found.lengths == {"min": 2, "25 %": 2, "median": 3, "75 %": 4, "90 %": 4, "99 %": 4, "max": 4}
    assert found.item_counts["max"] == 3
    assert found.heads == {"1%": pytest.approx(3 / 9), "10%": pytest.approx(3 / 9), "20%": pytest.approx(3 / 9)}
    assert found.repeated == pytest.approx(1 / 9)
    assert found.repeated_at_once == pytest.approx(1 / 9)
    assert found.tied == pytest.approx(2 / 9)
    assert (found.first, found.last) == ("1970-01-02", "1970-01-10")
    # Training: a a (1), b a (2), c (3), on days 1 1 3 4 5. Targets: c on day 9, d on day 7; nothing is later.
    assert found.later_training == 0
    assert found.new_targets == pytest.approx(1 / 2)


def test_training_that_is_later_than_the_targets(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = [(1, 1, 1), (1, 2, 2), (1, 3, 3), (2, 1, 2), (2, 3, 4), (2, 2, 5), (2, 4, 6)]
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    # Training at 1, 2, 4; targets at 3 and 6: a third is later than the one, nothing than the other.
    assert describe(prepare("x", raw=path, home=tmp_path)).later_training == pytest.approx(1 / 6)


def test_without_times(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 2 3 4\n2 3 4 5 6\n")
    found = describe(prepare("x", raw=tmp_path / "x.txt", home=tmp_path))
    assert (found.tied, found.first, found.last, found.later_training) == (None,) * 4


@pytest.mark.skipif(not datakit.REAL.is_dir(), reason="the real files may not be redistributed")
def test_ml_100k(tmp_path: Path) -> None:
    found = describe(prepare("ml-100k", home=tmp_path, raw=datakit.REAL))
    assert (found.lengths["min"], found.lengths["median"], found.lengths["max"]) == (19, 64, 648)
    assert found.repeated == 0
    assert found.tied == pytest.approx(0.756, abs=0.001)
    assert (found.first, found.last) == ("1997-09-20", "1998-04-22")


def test_the_command(bench: Bench) -> None:
    said = bench.call("data", "synthetic").out
    assert "synthetic: Synthetic sequences with a known ceiling, 5-core" in said
    assert "per user" in said
    figures = json.loads(bench.call("data", "synthetic", "--json").out)
    assert figures["users"] == 50
    outcome = bench.call("data", "ml-1m")
    assert outcome.code == 1
    assert "Run `seqbench prepare ml-1m`." in outcome.words


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot(small: PreparedDataset, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plots" / f"x.{ending}"
    plot(small, path)
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[ending])


def test_plot_that_cannot_be_written(small: PreparedDataset, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(SeqbenchError, match=r"takes a file that ends in \.png, \.svg, \.pdf"):
        plot(small, tmp_path / "x.docx")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        plot(small, tmp_path / "file" / "x.png")


def test_plot_without_matplotlib(small: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SeqbenchError, match="--plot needs matplotlib") as caught:
        plot(small, tmp_path / "x.png")
    assert "pip install 'seqbench[plot]'" in (caught.value.hint or "")
