"""The prepared data equals what a straightforward pandas pipeline makes of the same file."""

from pathlib import Path

import datakit
import numpy as np
import pandas as pd
import pytest

from seqbench.columns import ITEM, TIMESTAMP, USER
from seqbench.data.prepare import prepare

SHARED = datakit.REAL / "u.data"


def straightforward(path: Path, least: int) -> pd.DataFrame:
    """Read, filter to the fixed point, factorise in the order of the raw ids, sort by user and time."""
    frame = pd.read_csv(path, sep="\t", names=["user", "item", "rating", "timestamp"])
    size = -1
    while size != len(frame):
        size = len(frame)
        frame = frame[frame.groupby("user")["item"].transform("size") >= least]
        frame = frame[frame.groupby("item")["user"].transform("size") >= least]
    for column in ("user", "item"):
        frame[column] = frame[column].rank(method="dense").astype(int)
    return frame.sort_values(["user", "timestamp"], kind="stable")


def generated(folder: Path) -> Path:
    """A file of the same format with many equal timestamps and a long tail of items."""
    generator = np.random.default_rng(5)
    rows = 4000
    items = (generator.pareto(1.0, rows) * 20).astype(int) % 300 + 1
    columns = [generator.integers(1, 120, rows), items, generator.integers(1, 6, rows)]
    pairs = np.unique(np.stack(columns[:2], axis=1), axis=0, return_index=True)[1]
    table = np.stack([*columns, 880_000_000 + generator.integers(0, 50, rows)], axis=1)[np.sort(pairs)]
    np.savetxt(folder / "u.data", table, fmt="%d", delimiter="\t")
    return folder / "u.data"


@pytest.mark.filterwarnings("ignore::pandas.errors.ChainedAssignmentError")
@pytest.mark.parametrize("least", [1, 5, 12])
@pytest.mark.parametrize("source", ["published", "generated"])
def test_equals_the_straightforward_pipeline(source: str, least: int, tmp_path: Path) -> None:
    if source == "published" and not SHARED.exists():
        pytest.skip("the published file is not at hand")
    path = SHARED if source == "published" else generated(tmp_path)
    prepared = prepare("ml-100k", home=tmp_path / "home", raw=path, min_user=least, min_item=least)
    expected = straightforward(path, least)
    log = prepared.load()
    for name, column in ((USER, "user"), (ITEM, "item"), (TIMESTAMP, "timestamp")):
        np.testing.assert_array_equal(log[name], expected[column])
