"""Cells on a Ray cluster of two nodes: the same numbers, whatever is killed on the way."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import seqbench
from seqbench.data.prepared import open_prepared
from seqbench.errors import UsageError
from seqbench.events import Finished, from_json
from seqbench.execution import ray_cluster
from seqbench.execution.orders import Order
from seqbench.execution.slots import Slot
from seqbench.measuring.grid import LatencyGrid
from tests.kit import SMALL, TINY, Bench, Running, all_gone, poll
from tests.test_resume import outcome_of

ray = pytest.importorskip("ray", reason="needs seqbench[ray]")
pytestmark = pytest.mark.slow

EPOCHS = 150
CELL = (*TINY, *SMALL, "--models", "lrurec", "--epochs", str(EPOCHS), "--no-latency")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("SEQBENCH_HOME", str(tmp_path_factory.mktemp("node")))
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
        started.add_node(num_cpus=1, object_store_memory=100 << 20)
        started.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", started.address)
        yield started
        ray.shutdown()
        started.shutdown()


@pytest.fixture
def connected(cluster: Any) -> Iterator[None]:
    yield
    ray.shutdown()
    ray_cluster._task.cache_clear()


@pytest.fixture(scope="module")
def alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bench = Bench(home, tmp_path_factory.mktemp("alone"))
    assert bench.call("run", *CELL, "--executor", "inline").code == 0
    return outcome_of(bench)


def start(bench: Bench, *words: str) -> Running:
    return bench.start("run", *CELL, "--executor", "ray", *words)


def cell_process() -> psutil.Process:
    """The process that runs a cell on some node, as soon as there is one."""
    for _ in poll(60):
        for task in psutil.process_iter(["cmdline"]):
            if (task.info["cmdline"] or [""])[0].startswith("ray::"):
                with suppress(psutil.NoSuchProcess):
                    if children := task.children():
                        return children[0]
    raise AssertionError("no cell was begun")


@pytest.mark.usefixtures("connected")
def test_a_cluster_gives_what_one_process_gives(bench: Bench, alone: dict[str, Any]) -> None:
    outcome = bench.call("run", *CELL, "--executor", "ray", "--seeds", "0,1")
    assert outcome.code == 0, outcome.err
    (other,) = (path.parent for path in bench.results.rglob("record.json") if '"seed": 1' in path.read_text())
    shutil.rmtree(other)
    assert outcome_of(bench) == alone
    assert not list(bench.results.glob(".probe*"))


@pytest.mark.usefixtures("cluster")
def test_a_cell_whose_worker_is_killed_goes_on(bench: Bench, alone: dict[str, Any]) -> None:
    running = start(bench)
    assert running.saw("epoch 5/")
    (cell := cell_process()).parent().kill()
    assert all_gone([cell]), "it ends with the task that it works for"
    outcome = running.wait()
    assert outcome.code == 0, outcome.err
    assert "its worker or node was lost; it goes on elsewhere" in outcome.words
    assert "resumed after epoch" in outcome.words
    assert outcome_of(bench) == alone


def test_a_cell_whose_node_is_killed_goes_on(cluster: Any, bench: Bench, alone: dict[str, Any]) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    running = start(bench, "--jobs", "1")  # whose share of two cores only that node has
    assert running.saw("epoch 5/")
    cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    cluster.remove_node(node, allow_graceful=False)
    outcome = running.wait()
    assert outcome.code == 0, outcome.err
    assert "its worker or node was lost" in outcome.words
    assert outcome_of(bench) == alone


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_driver_that_is_ended_takes_its_cells_along_and_goes_on_when_repeated(
    number: signal.Signals, code: int, bench: Bench, alone: dict[str, Any]
) -> None:
    running = start(bench)
    assert running.saw("epoch 5/")
    cell = cell_process()
    os.killpg(running.process.pid, number)
    outcome = running.wait()
    assert outcome.code == code
    assert "Traceback" not in outcome.err
    assert all_gone([cell], 20)
    again = start(bench).wait()
    assert again.code == 0, again.err
    assert "resumed after epoch" in again.words
    assert outcome_of(bench) == alone


@pytest.mark.usefixtures("connected")
def test_results_come_back_where_no_folder_is_shared(
    bench: Bench, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def elsewhere(results: Path) -> Iterator[Path]:
        yield results / "which-no-node-sees"

    monkeypatch.setattr(ray_cluster, "_probe", elsewhere)
    outcome = bench.call("run", *CELL, "--executor", "ray")
    assert outcome.code == 0, outcome.err
    assert outcome_of(bench) == alone
    own = Path(os.environ["SEQBENCH_HOME"]) / "ray" / "results"
    assert not list(own.rglob("record.json")), "what came back is deleted there"


@pytest.mark.usefixtures("connected")
def test_a_node_without_the_data_asks_for_it(home: Path, tmp_path: Path) -> None:
    plan = seqbench.plan("popularity", "synthetic", home=home, results=tmp_path, dry_run=False)
    (definition,) = (cell.definition for cell in plan.cells)
    order = Order(
        definition, "popularity", tmp_path / "empty", tmp_path, "cpu", latency=LatencyGrid(lengths=())
    )  # as on a node whose home is another one
    (tmp_path / "probe").touch()
    call = order.to_json(), seqbench.__version__, "probe"
    assert list(ray_cluster.carry_out(*call, None)) == [None]
    folder = open_prepared("synthetic", home).directory
    connected = ray_cluster._connect()
    data = {path.name: connected.put(path.read_bytes()) for path in folder.iterdir()}
    *_, last = ray_cluster.carry_out(*call, data)
    assert isinstance(last, str)
    assert isinstance(from_json(last), Finished)
    *_, last = ray_cluster.carry_out(replace(order, force=True).to_json(), seqbench.__version__, "probe", None)
    assert isinstance(last, str), "it keeps the data"
    assert isinstance(from_json(last), Finished)


def test_a_node_with_another_release_runs_nothing(tmp_path: Path) -> None:
    (only,) = ray_cluster.carry_out("", "0.0.9", "probe", None)
    assert isinstance(only, str)
    assert "and the driver has 0.0.9" in only


@pytest.mark.usefixtures("connected")
def test_the_cores_of_a_cluster_are_divided_by_its_cells() -> None:
    slots = ray_cluster.slots(["cpu"], None, 9)
    assert {slot.device for slot in slots} == {"cpu"}
    assert len(slots) == sum(node["Alive"] for node in ray.nodes())
    assert len(ray_cluster.slots(["cpu"], None, 1)) == 1
    with pytest.raises(UsageError, match="--jobs 99 needs as many cores; the cluster has"):
        ray_cluster.slots(["cpu"], 99, 9)
    with pytest.raises(UsageError, match="needs as many GPUs; the cluster has 0"):
        ray_cluster.slots(["cuda:0"], None, 9)


@pytest.mark.parametrize(
    ("nodes", "jobs", "cells", "expected"),
    [
        ([8, 8], None, 9, [(8, 0)] * 2),
        ([8, 8], 4, 9, [(4, 1)] * 4),
        ([8, 8], 4, 2, [(8, 0)] * 2),
        ([8, 64], 3, 9, [(21, 2)] * 3),
        ([4], 4, 9, [(1, 3)] * 4),
    ],
)
def test_every_cell_has_the_largest_share_that_there_is_for_all(
    nodes: list[int], jobs: int | None, cells: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ray:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            dead = {"Alive": False, "Resources": {"CPU": 999.0}}
            return [dead, *({"Alive": True, "Resources": {"CPU": float(cores), "GPU": 0.0}} for cores in nodes)]

    monkeypatch.setattr(ray_cluster, "_connect", lambda: Ray)
    slots: list[Slot] = ray_cluster.slots(["cpu"], jobs, cells)
    assert [(slot.reserved, slot.beside) for slot in slots] == expected


def test_an_address_is_for_ray(bench: Bench) -> None:
    outcome = bench.call("run", *CELL, "--address", "127.0.0.1:1")
    assert outcome.code == 2
    assert "--address is for --executor ray" in outcome.words
