"""Trained models in use: raw ids, states, and recommendations for files of users."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import seqbench
from seqbench.data.prepared import open_prepared
from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.ranks import read_top
from seqbench.inference.states import States
from seqbench.inference.trained import Recommendation, TrainedModel
from tests.kit import SMALL, Bench

HISTORY = ["4", "17", "5", "8"]


@pytest.fixture(scope="module")
def trained(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Three models after one epoch, of lrurec two seeds."""
    bench = Bench(home, tmp_path_factory.mktemp("inference"))
    words = ("--models", "lrurec,sasrec,popularity", *SMALL, "--set", "sasrec.hidden_size=8")
    assert bench.run(*words, "--epochs", "1", "--no-latency").code == 0
    assert bench.run("--models", "lrurec", *SMALL, "--epochs", "1", "--no-latency", "--seeds", "1").code == 0
    return bench


@pytest.fixture(scope="module", params=["lrurec", "sasrec", "popularity"])
def model(trained: Bench, request: pytest.FixtureRequest) -> TrainedModel:
    return seqbench.load(trained.folder(request.param))


@pytest.fixture(scope="module", params=["lrurec", "sasrec"])
def keeper(trained: Bench, request: pytest.FixtureRequest) -> TrainedModel:
    """A model that keeps states."""
    return seqbench.load(trained.folder(request.param))


def close(found: list[Recommendation], expected: list[Recommendation]) -> bool:
    return [each.item for each in found] == [each.item for each in expected] and torch.allclose(
        torch.tensor([each.score for each in found]), torch.tensor([each.score for each in expected]), atol=1e-5
    )


def test_recommendations_are_those_that_the_run_has_stored(model: TrainedModel, home: Path) -> None:
    prepared = open_prepared("synthetic", home)
    raw = prepared.load().items.to_pylist()
    sequences = prepared.split()
    examples = sequences.test()
    histories = [
        [raw[item - 1] for item in sequences.flat[start:stop]]
        for start, stop in zip(examples.starts, examples.stops, strict=True)
    ]
    users, positions, items = read_top(model.folder / "top.parquet")
    stored = pd.DataFrame({"user": users, "position": positions, "item": items}).groupby("user")["item"].agg(list)
    found = model.recommend(histories, k=20)
    assert [[each.item for each in row] for row in found] == [
        [raw[item - 1] for item in stored[user]] for user in examples.users
    ]


def test_one_history_gives_one_list_best_first_and_without_seen_or_excluded_items(model: TrainedModel) -> None:
    everything = model.recommend(HISTORY, k=100, exclude_seen=False)
    assert len(everything) == len(model.ids)
    assert [each.score for each in everything] == sorted((each.score for each in everything), reverse=True)
    expected = [each for each in everything if each.item not in {*HISTORY, "20"}]
    assert close(model.recommend(HISTORY, k=100, exclude=["20", "no longer there"]), expected)
    assert close(model.recommend([HISTORY, HISTORY[:2]], k=100, exclude=["20"])[0], expected)


def test_an_unknown_item_is_said_or_skipped(model: TrainedModel) -> None:
    with pytest.raises(UsageError, match="not been trained with item 'B00'"):
        model.recommend([*HISTORY, "B00"])
    assert close(model.recommend([*HISTORY, "B00"], unknown="skip"), model.recommend(HISTORY))
    assert model.recommend([["B00"], HISTORY], unknown="skip")[0] == []


def test_states_go_on_as_whole_histories_would(keeper: TrainedModel, tmp_path: Path) -> None:
    histories = [HISTORY, HISTORY[:1], ["9", "4"]]
    states = keeper.state(histories, users=["a", "b", "c"])
    states.save(tmp_path / "states.safetensors")
    for _ in range(2):  # as they were, and read back
        after = keeper.append(states.take(["c", "a"]), ["11", "12"])
        whole = keeper.recommend([["9", "4", "11"], [*HISTORY, "12"]], k=5, exclude_seen=False)
        assert all(map(close, keeper.recommend(after, k=5), whole))
        states = keeper.load_states(tmp_path / "states.safetensors")
    both = States.join([states.take([0]), states.take([1])])
    assert (both.users, len(both)) == (("a", "b"), 2)
    one = keeper.append(keeper.state(HISTORY), "12")
    assert close(keeper.recommend(one, k=5)[0], whole[1])


def test_states_of_other_weights_and_damaged_ones_are_refused(trained: Bench, tmp_path: Path) -> None:
    first, second = (seqbench.load(trained.folder("lrurec", seed)) for seed in (0, 1))
    states, path = first.state(HISTORY), tmp_path / "states.safetensors"
    states.save(path)
    with pytest.raises(UsageError, match="of another model, or of other weights"):
        second.load_states(path)
    with pytest.raises(UsageError, match="of another model, or of other weights"):
        second.append(states, "4")
    States(states.outputs, (states.tensors[0][:, :3],), states.weights).save(path)
    with pytest.raises(SeqbenchError, match="state of other shapes"):
        first.load_states(path)
    longer = seqbench.load(trained.folder("sasrec"))
    states = longer.state(HISTORY)
    States(states.outputs, (states.tensors[0] + 10**9, *states.tensors[1:]), states.weights).save(path)
    with pytest.raises(SeqbenchError, match="does not have 0 to 20 items"):
        longer.load_states(path)


def test_a_model_without_states_and_a_history_at_its_end_say_so(trained: Bench) -> None:
    with pytest.raises(UsageError, match="popularity keeps no state"):
        seqbench.load(trained.folder("popularity")).state(HISTORY)
    model = seqbench.load(trained.folder("sasrec"))
    with pytest.raises(UsageError, match="no position for item 21"):
        model.append(model.state(["4"] * 30), "5")


def test_a_data_set_and_a_model_mean_the_run_with_the_best_validation(trained: Bench) -> None:
    found = seqbench.load("synthetic/lrurec", results=trained.results)
    validation = {seed: trained.record("lrurec", seed)["validation"]["ndcg@10"] for seed in (0, 1)}
    assert found.record.definition.seed == max(validation, key=lambda seed: validation[seed])
    with pytest.raises(UsageError, match="is synthetic/mamba4rec"):
        seqbench.load("synthetic/mamba4rec", results=trained.results)


def test_ids_that_are_not_those_of_the_run_are_not_believed(trained: Bench, tmp_path: Path) -> None:
    cell = Path(shutil.copytree(trained.folder("popularity"), tmp_path / "cell"))
    table = pq.read_table(cell / "items.parquet")
    pq.write_table(table.take([1, 0, *range(2, len(table))]), cell / "items.parquet")
    with pytest.raises(SeqbenchError, match=r"items.parquet is damaged .*not those that the record is of"):
        seqbench.load(cell).recommend(HISTORY)


def test_recommend_writes_every_format_for_users_of_the_data_set_or_of_a_file(trained: Bench, tmp_path: Path) -> None:
    run = trained.folder("lrurec")
    tables = {}
    for ending, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet), ("jsonl", pd.read_json)):
        path = tmp_path / f"out.{ending}"
        assert trained.call("recommend", run, "--output", path, "--k", 3).code == 0
        options = {"lines": True} if ending == "jsonl" else {}
        tables[ending] = read(path, **options).astype({"user_id": int, "item_id": int})
        pd.testing.assert_frame_equal(tables[ending], tables["csv"], check_dtype=False)
    assert list(tables["csv"].columns) == ["user_id", "position", "item_id", "score"]
    assert len(tables["csv"]) == 3 * 50
    users = tmp_path / "users.csv"
    users.write_text("user\n7\n2\n")
    assert trained.call("recommend", run, "--users", users, "--output", tmp_path / "two.csv", "--k", 3).code == 0
    two = pd.read_csv(tmp_path / "two.csv")
    assert two["user_id"].unique().tolist() == [7, 2]
    assert two["item_id"].tolist() == [
        *(item for user in (7, 2) for item in tables["csv"].query(f"user_id == {user}")["item_id"])
    ]


def test_recommend_takes_histories_in_the_order_of_the_file(trained: Bench, tmp_path: Path, capsys: object) -> None:
    bench = Bench(trained.home, trained.results, capsys)  # type: ignore[arg-type]
    users = tmp_path / "users.jsonl"
    rows = [("x", "4"), ("y", "9"), ("x", "17"), ("y", "nothing"), ("z", "nowhere"), ("x", "5")]
    users.write_text("".join(json.dumps({"user_id": user, "item_id": item}) + "\n" for user, item in rows))
    done = bench.call("recommend", bench.folder("lrurec"), "--users", users, "--output", tmp_path / "out.csv")
    assert done.code == 0
    assert "2 rows have items that the model has not been trained with (nothing, nowhere)" in done.words
    assert "1 users have no item that the model knows" in done.words
    found = pd.read_csv(tmp_path / "out.csv", dtype=str).groupby("user_id")["item_id"].agg(list)
    model = seqbench.load(bench.folder("lrurec"))
    assert found.to_dict() == {
        user: [each.item for each in model.recommend(history)]
        for user, history in (("x", ["4", "17", "5"]), ("y", ["9"]))
    }
    refused = bench.call("recommend", bench.folder("lrurec"), "--output", tmp_path / "out.xls")
    assert (refused.code, "File format '.xls' is unknown" in refused.words) == (2, True)
