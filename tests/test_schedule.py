"""Many cells: in several places at once, beside other commands on the same store, and in parts."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import seqbench
from seqbench.errors import UsageError
from seqbench.events import Failed, Listener, Outcome, Paused
from seqbench.execution import EXECUTORS, Executor
from seqbench.execution import slots as slots_module
from seqbench.execution.inline import run as run_inline
from seqbench.execution.orders import Order
from seqbench.execution.slots import Slot, on_this_machine
from seqbench.execution.stopping import Stop
from seqbench.measuring.grid import LatencyGrid
from seqbench.measuring.quiet import Watch, beside
from seqbench.results.store import CLAIM
from tests.kit import PATIENCE, Bench

NOTHING = LatencyGrid(lengths=())

Execute = Callable[[Order, Listener, Stop], Outcome]


@contextmanager
def executor(execute: Execute) -> Iterator[str]:
    with EXECUTORS.added("toy", Executor(execute)):
        yield "toy"


@pytest.fixture(autouse=True)
def _look_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqbench.execution.schedule.LOOK_AGAIN_SECONDS", 0.01)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may use three cores."""
    monkeypatch.setattr(slots_module.os, "sched_getaffinity", lambda _: {4, 5, 6})


@pytest.mark.usefixtures("cores")
def test_as_many_cells_run_at_a_time_as_there_are_places(home: Path, tmp_path: Path) -> None:
    together = threading.Barrier(2)
    seen: list[Order] = []

    def meet(order: Order, on_event: Listener, stop: Stop) -> Failed:
        together.wait(PATIENCE)
        seen.append(Order.from_json(order.to_json()))
        return Failed("error", "only counted", None)

    with executor(meet) as name:
        records = seqbench.run(
            "lrurec", "synthetic", seeds=range(4), jobs=2, executor=name, home=home, results=tmp_path
        )
    assert [record.definition.seed for record in records] == [0, 1, 2, 3]
    assert {order.cores for order in seen} == {(4, 6), (5,)}
    assert {order.beside for order in seen} == {1}
    assert {order.threads for order in seen} == {torch.get_num_threads()}, "others would mean other sums"


@pytest.mark.usefixtures("cores")
def test_what_ends_a_run_in_one_place_ends_it_in_all(home: Path, tmp_path: Path) -> None:
    running, told = threading.Event(), threading.Event()
    seeds: list[int] = []

    def end(order: Order, on_event: Listener, stop: Stop) -> Failed:
        seeds.append(order.definition.seed)
        if order.definition.seed == 1:
            assert running.wait(PATIENCE)
            raise KeyboardInterrupt
        with stop.calling(told.set):
            running.set()
            assert told.wait(PATIENCE)
        return Failed("killed", "by the stop", None)

    with executor(end) as name, pytest.raises(KeyboardInterrupt):
        seqbench.run("lrurec", "synthetic", seeds=range(6), jobs=2, executor=name, home=home, results=tmp_path)
    assert told.is_set()
    assert sorted(seeds) == [0, 1], "no other is started"
    assert not list(tmp_path.rglob("record.json")), "to be stopped is no failure of the cell"


def test_a_cell_that_another_command_runs_is_looked_at_again_at_the_end(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = seqbench.plan(["markov", "popularity"], "synthetic", home=home, results=tmp_path)
    claim = plan.cells[0].definition.folder(tmp_path) / CLAIM
    claim.parent.mkdir(parents=True)
    other = FileLock(claim)
    other.acquire()
    seen: list[str] = []

    def watch(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        seen.append(order.definition.model)
        outcome = run_inline(order, on_event)
        other.release()
        return outcome

    with executor(watch) as name:
        records = seqbench.run(
            ["markov", "popularity"], "synthetic", executor=name, latency=NOTHING, home=home, results=tmp_path
        )
    assert seen == ["popularity", "markov"]
    assert [record.definition.model for record in records] == ["markov", "popularity"]
    assert "markov / seed 0 is being run by another command" in " ".join(capsys.readouterr().err.split())


def test_two_commands_on_one_store_share_its_cells(home: Path, tmp_path: Path) -> None:
    together = threading.Barrier(2)
    seen: list[tuple[str, int]] = []

    def meet(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        seen.append((threading.current_thread().name, order.definition.seed))
        together.wait(PATIENCE)  # each command has a cell of its own at the same time
        return run_inline(order, on_event)

    def command() -> None:
        seqbench.run(
            "lrurec", "synthetic", seeds=range(4), epochs=1, executor="toy", latency=NOTHING, max_len=8,
            settings={"hidden_size": 4, "layers": 1}, home=home, results=tmp_path, keep_weights=False,
        )  # fmt: skip

    with executor(meet):
        commands = [threading.Thread(target=command, name=name) for name in ("one", "other")]
        for each in commands:
            each.start()
        for each in commands:
            each.join(PATIENCE)
    assert sorted(seed for _, seed in seen) == [0, 1, 2, 3], "every cell is run once"
    assert [name for name, _ in seen].count("one") == 2


def test_parts_of_the_cells_are_all_of_them(home: Path, tmp_path: Path) -> None:
    def seeds(shard: tuple[int, int] | None) -> list[int]:
        plan = seqbench.plan("lrurec", "synthetic", seeds=range(7), shard=shard, home=home, results=tmp_path)
        assert plan.shared == (shard is None), "where there are no locks, none is asked for"
        return [cell.definition.seed for cell in plan.cells]

    assert [seeds((part, 3)) for part in (1, 2, 3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert seeds(None) == list(range(7))
    for wrong in ((0, 3), (4, 3)):
        with pytest.raises(UsageError, match="There is no part"):
            seeds(wrong)


def test_a_cell_that_has_no_time_is_left_where_it_is(home: Path, tmp_path: Path) -> None:
    def pause(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        return run_inline(order, on_event) if order.definition.model == "markov" else Paused(3)

    with executor(pause) as name:
        records = seqbench.run(
            ["lrurec", "markov"], "synthetic", executor=name, time_budget=600, latency=NOTHING, home=home,
            results=tmp_path,
        )  # fmt: skip
    assert [record.definition.model for record in records] == ["markov"]
    assert len(list(tmp_path.rglob("record.json"))) == 1, "to be left is no failure"


def test_no_cell_is_begun_that_takes_longer_than_there_is_time(home: Path, tmp_path: Path) -> None:
    begun: list[int] = []

    def note(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        begun.append(order.definition.seed)
        return run_inline(order, on_event)

    def run(seeds: int, **budget: float) -> int:
        return len(
            seqbench.run(
                "lrurec", "synthetic", seeds=range(seeds), epochs=1, executor="toy", latency=NOTHING, max_len=8,
                settings={"hidden_size": 4, "layers": 1}, home=home, results=tmp_path, keep_weights=False, **budget,
            )
        )  # fmt: skip

    with executor(note):
        run(1)
        (path,) = tmp_path.rglob("record.json")
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"seconds": 1000.0}))
        assert run(2, time_budget=900) == 1, "by the finished cell, the other takes longer"
        assert run(2, time_budget=1100) == 2
    assert begun == [0, 1]


def test_what_still_runs_when_the_time_is_up_is_ended(home: Path, tmp_path: Path) -> None:
    def run_on(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        told = threading.Event()
        with stop.calling(told.set):
            assert told.wait(PATIENCE)
        return Failed("killed", "by the stop", None)

    with executor(run_on) as name:
        assert not seqbench.run(
            "lrurec", "synthetic", seeds=(0, 1), executor=name, time_budget=0.2, home=home, results=tmp_path
        )
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.usefixtures("cores")
def test_every_gpu_is_a_place_and_a_cpu_is_divided_on_request() -> None:
    gpus, threads = ["cuda:0", "cuda:1", "cuda:2"], torch.get_num_threads()
    assert on_this_machine(gpus, None, 9) == [Slot(gpu, threads, beside=2) for gpu in gpus]
    assert (
        on_this_machine(gpus, 2, 9) == on_this_machine(gpus, None, 2) == [Slot(g, threads, beside=1) for g in gpus[:2]]
    )
    assert on_this_machine(gpus, None, 1) == [Slot("cuda:0")]
    assert on_this_machine(["cpu"], None, 9) == on_this_machine(["cpu"], 1, 9) == [Slot("cpu")]
    assert on_this_machine(["cpu"], 3, 9) == [Slot("cpu", threads, (core,), beside=2) for core in (4, 5, 6)]
    assert on_this_machine(["cpu"], 3, 1) == [Slot("cpu")], "a cell that is alone has all cores"
    for devices in (gpus, ["cpu"]):
        with pytest.raises(UsageError, match="--jobs 4 needs as many"):
            on_this_machine(devices, 4, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shard", "3/2"), "There is no part 3 of 2"),
        (("--shard", "one"), "--shard 'one' is no part of the cells"),
        (("--jobs", "2", "--seeds", "0,1"), "runs one cell at a time"),
    ],
)
@pytest.mark.usefixtures("cores")
def test_what_cannot_be_divided_is_said(words: tuple[str, ...], message: str, bench: Bench) -> None:
    outcome = bench.run("--models", "lrurec", *words)
    assert outcome.code == 2
    assert message in outcome.words


def test_costs_of_cells_that_ran_beside_others_say_so() -> None:
    with beside(2):
        watch = Watch(torch.device("cpu"))
        watch._at -= 1  # a second ago
        assert "2 other cells ran beside it" in watch.conditions()["disturbances"]
    watch._at -= 1
    assert not any("beside" in words for words in watch.conditions()["disturbances"])


@pytest.mark.slow
def test_cells_side_by_side_give_what_they_give_alone(bench: Bench, tmp_path: Path) -> None:
    words = ("--models", "lrurec", "--epochs", "3", "--seeds", "0,1", "--set", "lrurec.hidden_size=8")
    assert bench.run(*words, "--jobs", "2", processes=True).code == 0
    alone = Bench(bench.home, tmp_path / "alone", bench.capsys)
    assert alone.run(*words, processes=True).code == 0
    for seed in (0, 1):
        assert bench.record("lrurec", seed)["accuracy"] == alone.record("lrurec", seed)["accuracy"]
        ranks = [each.folder("lrurec", seed) / "ranks.parquet" for each in (bench, alone)]
        assert ranks[0].read_bytes() == ranks[1].read_bytes()
