"""Times on their way from the data to the models that use them: what is passed where, and what is never seen."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import seqbench
from seqbench.data.prepared import open_prepared
from seqbench.data.sequences import Sequences, split_sequences
from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.ranking import rank
from seqbench.inference.trained import TrainedModel
from seqbench.models.base import TrainingConfig
from seqbench.models.checks import check_causality
from seqbench.models.times import Times
from seqbench.protocol import Protocol
from seqbench.training.loop import Trainer
from tests.kit import Bench
from tests.models.timed import Timed, TimedConfig

MODEL = f"{Path(__file__).with_name('timed.py')}:Timed"
ITEMS = 9
# Items of two users, and when each was taken: the second half of a second counts for nothing, equal seconds are equal.
FLAT = [1, 2, 3, 4, 5, 6, 7, 8, 9]
SECONDS = [10, 20, 20, 50, 70, 5, 6, 8, 11]


def sequences(times: list[int] | None = SECONDS, split: str = "leave-one-out") -> Sequences:
    users = np.array([1] * 5 + [2] * 4, np.int32)
    made = split_sequences(users, np.array(FLAT, np.int32), np.array(SECONDS), split=split)
    return dataclasses.replace(made, times=None if times is None else np.array(times))


class Watching(Timed):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(ITEMS, 3, TimedConfig())
        self.seen: list[tuple[torch.Tensor, torch.Tensor, Times]] = []

    def forward(self, items: torch.Tensor, lengths: torch.Tensor, times: Times | None = None) -> torch.Tensor:
        assert times is not None
        if self.training or torch.is_inference_mode_enabled():  # and not while it is only checked
            self.seen.append((items, lengths, times))
        return super().forward(items, lengths, times)


def trained(data: Sequences, protocol: Protocol, objective: str) -> dict[tuple[int, ...], tuple[list[int], list[int]]]:
    """Items of each row that a model is trained on → events and requests, without padding."""
    model = Watching()
    settings = TrainingConfig(epochs=1, objective=objective, batch_size=2)
    trainer = Trainer(model, data, training=settings, protocol=protocol)
    trainer.validation = trainer.validation.take(np.array([0]))
    trainer.run()
    return rows(model)


def rows(model: Watching) -> dict[tuple[int, ...], tuple[list[int], list[int]]]:
    return {
        tuple(items[row, :length].tolist()): (events[row, :length].tolist(), requests[row, :length].tolist())
        for items, lengths, (events, requests) in model.seen
        for row, length in enumerate(lengths)
    }


def test_a_window_has_the_times_of_its_items_and_of_its_targets_only_where_the_protocol_says_so() -> None:
    assert trained(sequences(), Protocol(max_len=3), "all-positions")[1, 2] == ([10, 20], [10, 20])
    known = trained(sequences(), Protocol(max_len=3, request_time=True), "all-positions")
    assert known[1, 2] == ([10, 20], [20, 20])
    assert known[6,] == ([5], [6])


def test_a_prefix_has_the_times_of_its_items_and_of_its_target_only_where_the_protocol_says_so() -> None:
    found = trained(sequences(), Protocol(max_len=2), "prefix")
    assert found[1,] == ([10], [10])
    assert found[1, 2] == ([10, 20], [10, 20])
    known = trained(sequences(), Protocol(max_len=2, request_time=True), "prefix")
    assert known[1,] == ([10], [20])
    assert known[1, 2] == ([10, 20], [20, 20])


@pytest.mark.parametrize("split", ["leave-one-out", "temporal"])
def test_a_tested_history_ends_with_the_time_of_its_target_only_where_the_protocol_says_so(split: str) -> None:
    data = sequences(split=split)
    found = {}
    for request_time in (False, True):
        model = Watching()
        rank(model, data, data.test(), Protocol(max_len=3, request_time=request_time))
        found[request_time] = rows(model)
    if split == "leave-one-out":
        assert found[False] == {(2, 3, 4): ([20, 20, 50], [20, 20, 50]), (6, 7, 8): ([5, 6, 8], [5, 6, 8])}
        assert found[True] == {(2, 3, 4): ([20, 20, 50], [20, 50, 70]), (6, 7, 8): ([5, 6, 8], [6, 8, 11])}
    else:
        assert found[True] == {(2, 3, 4): ([20, 20, 50], [20, 50, 70])}


def test_no_time_of_a_held_out_item_is_seen_by_default() -> None:
    later = [10, 20, 20, 51, 71, 5, 6, 9, 12]  # of the targets of validation and test alone
    for objective in ("all-positions", "prefix"):
        before, after = (
            {
                items: times
                for items, times in trained(sequences(each), Protocol(max_len=3), objective).items()
                if items != (2, 3, 4)
            }
            for each in (SECONDS, later)
        )
        assert before == after


def test_where_only_an_order_is_known_all_times_are_equal() -> None:
    found = trained(sequences(None), Protocol(max_len=3, request_time=True), "all-positions")
    assert set(map(str, found.values())) == {"([0, 0], [0, 0])", "([0], [0])", "([0, 0, 0], [0, 0, 0])"}


def test_times_of_prepared_data_are_whole_seconds(home: Path) -> None:
    prepared = open_prepared("synthetic", home)
    log = prepared.load()
    seconds = prepared.split().times
    assert seconds is not None
    assert (seconds == log["timestamp"]).all()
    prepared.meta["timestamp_unit"] = "milliseconds"
    assert (prepared.seconds(log) == log["timestamp"] // 1000).all()
    prepared.meta["timestamp_unit"] = "rows"
    assert prepared.seconds(log) is None


def test_a_model_that_sees_a_later_time_is_not_trained_at_all_positions() -> None:
    check_causality(Timed(ITEMS, 5, TimedConfig()))
    with pytest.raises(SeqbenchError, match="or its time does"):
        check_causality(Timed(ITEMS, 5, TimedConfig(ahead=True)))


@pytest.fixture(scope="module")
def used(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One cell without and one with the time of the request."""
    bench = Bench(home, tmp_path_factory.mktemp("times"))
    for words in ((), ("--request-time",)):
        assert bench.run("--models", MODEL, *words).code == 0
    return bench


def cell(used: Bench, request_time: bool) -> TrainedModel:
    (folder,) = [
        path.parent
        for path in used.results.glob("*/Timed/*/record.json")
        if json.loads(path.read_text())["definition"]["protocol"]["request_time"] == request_time
    ]
    return seqbench.load(folder, model=MODEL)


def test_figures_with_the_time_of_the_request_stand_apart(used: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(cell(used, known).record.uses_times for known in (False, True))
    shown = Bench(used.home, used.results, capsys).call("report").out
    assert shown.count("Protocol fair") == 2
    assert shown.count("time of the request known") == 1
    unknown, known = shown.split("time of the request known")
    assert "knows the times of past items, and not that of the request" in unknown
    assert "knows the times of past items and of the request" in known


def test_a_model_in_use_is_given_times(used: Bench) -> None:
    model, history, times = cell(used, False), ["4", "17", "5"], [100, 160, 4000]
    given = Times(*(torch.tensor([times]) for _ in range(2)))
    numbers = torch.tensor([model._numbers([history], "raise")[0]])
    expected = model.model.score(numbers, torch.tensor([3]), given)[0]  # type: ignore[call-arg]
    found = model.recommend(history, k=40, times=times, exclude_seen=False)
    torch.testing.assert_close(
        torch.tensor([each.score for each in found]), expected[1:].sort(descending=True).values, rtol=1e-5, atol=1e-5
    )
    assert model.recommend([["4", "none", "5"], history], times=[[100, 7, 4000], times], unknown="skip") == [
        model.recommend(["4", "5"], times=[100, 4000]),
        model.recommend(history, times=times),
    ]
    state = model.append(model.state([history[:2]], times=[times[:2]]), ["5"], times=[4000])
    after = model.recommend(state, k=40)[0]
    assert [each.item for each in after] == [each.item for each in found]
    with pytest.raises(UsageError, match="uses times"):
        model.recommend(history)
    with pytest.raises(UsageError, match="a time for each item"):
        model.recommend(history, times=times[:2])
    with pytest.raises(UsageError, match="2 times do not fit 1 histories"):
        model.append(state, ["5"], times=[1, 2])


def test_a_model_that_knows_the_request_is_told_when_it_is_asked_and_keeps_no_state(used: Bench) -> None:
    model, history, times = cell(used, True), ["4", "17", "5"], [100, 160, 4000]
    numbers = torch.tensor([model._numbers([history], "raise")[0]])
    given = Times(torch.tensor([times]), torch.tensor([[160, 4000, 9000]]))
    expected = model.model.score(numbers, torch.tensor([3]), given)[0]  # type: ignore[call-arg]
    both = [history[:1], history], [times[:1], times]  # of different lengths
    _, found = model.recommend(both[0], k=40, times=both[1], at=[500, 9000], exclude_seen=False)
    (shorter, _) = model.recommend(both[0], k=3, times=both[1], at=[500, 9000])
    assert shorter == [
        (item, pytest.approx(score, rel=1e-5)) for item, score in model.recommend(["4"], 3, times=[100], at=500)
    ]
    torch.testing.assert_close(
        torch.tensor([each.score for each in found]), expected[1:].sort(descending=True).values, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(UsageError, match="trained to know when it is asked"):
        model.recommend(history, times=times)
    with pytest.raises(UsageError, match="keeps no state"):
        model.state(history, times=times)


def test_recommend_reads_times_from_files_and_from_the_data_set(
    used: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, model = Bench(used.home, used.results, capsys), cell(used, True)
    frame = pd.DataFrame({"user": ["x", "y", "x"], "item": ["4", "9", "17"], "time": [100, 5, 160]})
    frame.to_csv(tmp_path / "users.csv", index=False)
    frame.assign(time=pd.to_datetime(frame["time"], unit="s")).to_parquet(tmp_path / "users.parquet")
    words = ("recommend", model.folder, "--model", MODEL, "--k", 5)
    expected = model.recommend(["4", "17"], 5, times=[100, 160], at=9000)
    for ending in ("csv", "parquet"):
        users, output = tmp_path / f"users.{ending}", tmp_path / f"{ending}.csv"
        assert bench.call(*words, "--users", users, "--output", output, "--at", 9000).code == 0
        found = pd.read_csv(output, dtype={"item_id": str})
        found = found[found["user_id"] == "x"]
        assert found["item_id"].tolist() == [each.item for each in expected]
        assert found["score"].tolist() == pytest.approx([each.score for each in expected], rel=1e-5)
    assert bench.call(*words, "--output", tmp_path / "all.csv", "--at", 2_000_000_000).code == 0
    refused = bench.call(*words, "--output", tmp_path / "all.csv")
    assert (refused.code, "Say it with --at" in refused.words) == (2, True)
    frame.drop(columns="time").to_csv(tmp_path / "users.csv", index=False)
    refused = bench.call(*words, "--users", tmp_path / "users.csv", "--output", tmp_path / "out.csv", "--at", 1)
    assert (refused.code, "has no column time" in refused.words) == (2, True)
    frame.assign(time="noon").to_csv(tmp_path / "users.csv", index=False)
    refused = bench.call(*words, "--users", tmp_path / "users.csv", "--output", tmp_path / "out.csv", "--at", 1)
    assert (refused.code, "no whole seconds since 1970" in refused.words) == (1, True)
