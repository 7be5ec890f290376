"""The public API: what the command line calls, from Python."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import seqbench
from seqbench.errors import SeqbenchError, UsageError
from seqbench.events import EpochEnded, Event, Failed, Finished, Listener
from seqbench.execution import EXECUTORS, Executor
from seqbench.execution.inline import run as run_inline
from seqbench.execution.orders import Order
from seqbench.execution.stopping import Stop
from seqbench.models import load_model
from seqbench.results import WEIGHTS
from tests.kit import ROOT, Bench

SMALL = {"lrurec.hidden_size": 8, "lrurec.layers": 1, "lrurec.batch_size": 16}
QUICK = seqbench.LatencyGrid(lengths=(4,), batches=(1,), seconds=0.0)


@pytest.fixture(scope="module")
def results(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with lrurec (two seeds) and markov, run through the API."""
    folder = tmp_path_factory.mktemp("api")
    records = seqbench.run(
        ["lrurec", "markov"],
        "synthetic",
        executor="inline",
        latency=QUICK,
        seeds=[0, 1],
        epochs=2,
        max_len=20,
        backend="torch",
        settings=SMALL,
        results=folder,
        home=home,
    )
    assert [record.status for record in records] == ["finished"] * 3
    return folder


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, seqbench; heavy = {'torch', 'pandas', 'numpy', 'rich', 'typer', 'pyarrow'} & sys.modules.keys();"
        "assert not heavy, heavy; assert 'train' in dir(seqbench)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", seqbench.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(seqbench, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = seqbench.nothing  # type: ignore[attr-defined]


def test_training_and_evaluating_gives_what_a_cell_gives(results: Path, home: Path) -> None:
    split = seqbench.load_dataset("synthetic", home=home).split()
    epochs = []

    def listen(event: Event) -> None:
        if isinstance(event, EpochEnded):
            epochs.append(event.epoch)

    model = seqbench.train(
        "lrurec",
        split,
        max_len=20,
        backend="torch",
        epochs=2,
        seed=1,
        on_event=listen,
        hidden_size=8,
        layers=1,
        batch_size=16,
    )
    cells = seqbench.load_results(results).set_index(["model", "seed"])
    ranks = seqbench.evaluate(model, split)
    assert ranks["ndcg@10"] == cells.loc[("lrurec", 1), "ndcg@10"]
    assert seqbench.evaluate(model, split, on="valid")["hr@10"] == cells.loc[("lrurec", 1), "valid:hr@10"]
    assert epochs == [1, 2]
    counted = seqbench.train(load_model("markov"), split)
    assert seqbench.evaluate(counted, split)["mrr@5"] == cells.loc[("markov", 0), "mrr@5"]


def test_settings_are_typed_values_or_text_and_wrong_ones_are_refused(home: Path) -> None:
    split = seqbench.load_dataset("synthetic", home=home).split()
    with pytest.raises(UsageError, match="Did you mean dropout"):
        seqbench.train("lrurec", split, dropuot=0.1)
    with pytest.raises(UsageError, match=r"dropout must be a number, not \[\]"):
        seqbench.train("lrurec", split, dropout=[])
    with pytest.raises(UsageError, match=r"layers must be a whole number, not 1.5"):
        seqbench.train("lrurec", split, layers=1.5)


def test_a_trained_model_comes_back_with_its_weights(results: Path, home: Path) -> None:
    cells = seqbench.load_results(results)
    split = seqbench.load_dataset("synthetic", home=home).split()
    for cell in cells.itertuples():
        model = seqbench.load(cell.path)
        assert not model.model.training
        assert seqbench.evaluate(model, split)["ndcg@10"] == cells.set_index("path").loc[cell.path, "ndcg@10"]


def test_results_and_ranks_are_tables(results: Path) -> None:
    cells, ranks = seqbench.load_results(results), seqbench.load_ranks(results)
    assert list(cells["model"]) == ["lrurec", "lrurec", "markov"]
    assert len(ranks) == 3 * 50
    first = ranks[(ranks["model"] == "lrurec") & (ranks["seed"] == 0)]
    hits = (first["better"] < 10).mean()
    assert hits == pytest.approx(cells.set_index(["model", "seed"]).loc[("lrurec", 0), "hr@10"])
    with pytest.raises(SeqbenchError, match="There are no results"):
        seqbench.load_results(results / "nowhere")


@pytest.mark.parametrize("format", ["terminal", "latex", "markdown", "csv", "json"])
def test_reports_are_text_in_every_format(format: str, results: Path) -> None:
    assert "markov" in seqbench.report(results, format, metrics=["ndcg@7"]).lower()
    with pytest.raises(UsageError, match=r"Format 'latx' is unknown\. Did you mean latex"):
        seqbench.report(results, "latx")


def test_a_plan_says_what_is_finished(results: Path, home: Path) -> None:
    plan = seqbench.plan(
        "lrurec", "synthetic", seeds=[1, 2], epochs=2, max_len=20, backend="torch", settings=SMALL, results=results,
        home=home,
    )  # fmt: skip
    assert [cell.state for cell in plan.cells] == ["finished", "new"]
    with pytest.raises(UsageError, match="Model 'lrurek' is unknown"):
        seqbench.plan("lrurek", "synthetic", home=home)


def test_an_executor_of_ones_own_needs_no_change_of_the_package(home: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def counting(order: Order, on_event: Listener, stop: Stop) -> Finished | Failed:
        seen.append(order.definition.model)
        return run_inline(Order.from_json(order.to_json()), on_event)

    with EXECUTORS.added("counting", Executor(counting)):
        (record,) = seqbench.run("markov", "synthetic", executor="counting", latency=QUICK, home=home, results=tmp_path)
    assert record.finished
    assert seen == ["markov"]
    with pytest.raises(UsageError, match="Executor 'counting' is unknown"):
        seqbench.run("markov", "synthetic", executor="counting", home=home, results=tmp_path, force=True)


def test_without_weights_none_are_kept_and_loading_says_what_to_do(bench: Bench) -> None:
    assert bench.run("--models", "popularity", "--no-weights", "--no-latency").code == 0
    assert WEIGHTS not in bench.files()
    assert bench.record("popularity")["cost"]["latency"] == []
    with pytest.raises(SeqbenchError, match="has no weights") as caught:
        seqbench.load(bench.folder("popularity"))
    assert "--no-weights" in (caught.value.hint or "")


def test_a_model_is_trained_on_the_device_that_is_named(home: Path) -> None:
    split = seqbench.load_dataset("synthetic", home=home).split()
    with pytest.raises(UsageError, match="Device 'tpu' is not available"):
        seqbench.train("markov", split, device="tpu")
    model = seqbench.train("markov", split, device="cpu")
    assert next(model.buffers()).device == torch.device("cpu")
