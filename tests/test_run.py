"""Whole runs: what is stored, skipped, repeated, and what a failing cell leaves behind."""

from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from seqbench.evaluation.ranks import Ranks
from seqbench.events import EpochEnded, Event
from seqbench.execution import process
from seqbench.results import read_record
from seqbench.show.progress import CellProgress
from tests.kit import FILES, SMALL, TINY, Bench

MODELS = ("--models", "lrurec,markov")
DIVERGING = ("--set", "lrurec.learning_rate=1e30", "--set", "lrurec.clip_norm=0")


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder after one run of two models, with real processes; its stderr is beside it."""
    folder = tmp_path_factory.mktemp("run")
    bench = Bench(home, folder / "results")
    running = bench.start("run", *TINY, *SMALL, *MODELS, "--epochs", "2")
    outcome = running.wait()
    assert outcome.code == 0, outcome.err
    (folder / "stderr").write_text(outcome.err)
    return folder / "results"


@pytest.fixture
def done(home: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """`seqbench` over that folder. Tests leave it as it was."""
    return Bench(home, finished, capsys)


def stamps(results: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in results.rglob("*.*") if path.is_file()}


def test_a_run_stores_record_weights_ranks_and_samples_and_no_checkpoint(done: Bench) -> None:
    assert done.files() == sorted(FILES * 2)
    for model in ("lrurec", "markov"):
        folder = done.folder(model)
        record = read_record(folder / "record.json")
        assert record.finished
        assert folder == record.definition.folder(done.results)
        ranks = Ranks.read(folder / "ranks.parquet")
        assert ranks.metrics() == record.accuracy
        assert len(ranks.users) == record.dataset["evaluated_users"] == 50
        samples = pq.read_table(folder / "samples.parquet").to_pydict()
        assert len(samples["value"]) == sum(point["repeats"] for point in record.cost["latency"])
        assert record.environment["cpu"]
        assert record.seconds > 0


def test_a_record_tells_what_training_gave_and_took(done: Bench) -> None:
    record = read_record(done.folder("lrurec") / "record.json")
    assert record.training is not None
    assert record.training["epochs"] == len(record.training["history"]) == 2
    best = max(entry["validation"] for entry in record.training["history"])
    assert record.validation["ndcg@10"] == pytest.approx(best, abs=1e-12)
    assert record.cost["parameters"] > 0
    assert record.cost["peak_memory_bytes"] > 0
    assert record.cost["train_interactions_per_second"] > 0
    assert {point["mode"] for point in record.cost["latency"]} == {"whole", "step"}
    counting = read_record(done.folder("markov") / "record.json")
    assert counting.training is None
    assert "train_interactions_per_second" not in counting.cost
    assert {point["mode"] for point in counting.cost["latency"]} == {"whole"}


def test_without_a_terminal_every_epoch_is_a_plain_line(done: Bench) -> None:
    said = (done.results.parent / "stderr").read_text()
    assert "synthetic / lrurec / seed 0: epoch 1/2: loss" in said
    assert "synthetic / lrurec / seed 0: epoch 2/2: loss" in said
    assert "[2/2] synthetic / markov / seed 0: test ndcg@10" in said
    assert "\x1b" not in said
    assert "\r" not in said


def test_a_second_run_skips_what_is_finished(done: Bench) -> None:
    before = stamps(done.results)
    outcome = done.run(*SMALL, *MODELS, "--epochs", "2")
    assert outcome.code == 0
    assert "2 of 2 cells are finished already; --force runs them again." in outcome.words
    assert stamps(done.results) == before


def test_a_dry_run_shows_the_plan_and_runs_nothing(done: Bench) -> None:
    before = stamps(done.results)
    outcome = done.run(*SMALL, *MODELS, "--seeds", "0,1", "--epochs", "2", "--dry-run")
    assert outcome.code == 0
    states = [line.split()[-1] for line in outcome.out.splitlines() if line.startswith("synthetic")]
    assert states == ["skipped", "run", "skipped"]
    forced = done.run(*SMALL, *MODELS, "--epochs", "2", "--dry-run", "--force")
    assert forced.out.count("to be run again") == 2
    assert stamps(done.results) == before


def test_a_dry_run_creates_no_results_folder(bench: Bench) -> None:
    assert bench.run("--models", "markov", "--dry-run").code == 0
    assert not bench.results.exists()


def test_quiet_runs_say_nothing_when_all_is_well(bench: Bench) -> None:
    outcome = bench.run("--models", "popularity", "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    again = bench.run("--models", "popularity", "-q")
    assert (again.code, again.out, again.err) == (0, "", "")


def test_force_runs_a_finished_cell_again_with_the_same_outcome(bench: Bench) -> None:
    assert bench.run("--models", "markov").code == 0
    before, stamp = bench.record("markov"), stamps(bench.results)
    ranks = (bench.folder("markov") / "ranks.parquet").read_bytes()
    assert bench.run("--models", "markov", "--force").code == 0
    after = bench.record("markov")
    assert all(stamps(bench.results)[path] != stamp[path] for path in stamp if path.endswith((".json", ".parquet")))
    assert after["accuracy"] == before["accuracy"]
    assert (bench.folder("markov") / "ranks.parquet").read_bytes() == ranks


def test_a_data_set_named_twice_is_run_once(bench: Bench) -> None:
    outcome = bench.run("--models", "popularity", "--datasets", "synthetic,synthetic", "--dry-run")
    assert outcome.code == 0
    assert outcome.out.count("to be run") == 1


def test_a_failing_cell_is_recorded_and_the_others_go_on(bench: Bench) -> None:
    words = (*SMALL, *DIVERGING, "--models", "lrurec,markov", "--seeds", "0,1", "--epochs", "3")
    outcome = bench.run(*words)
    assert outcome.code == 1
    summary = outcome.words[outcome.words.index("2 of 3 cells failed") :]
    assert "synthetic / lrurec / seed 0" in summary
    assert "synthetic / lrurec / seed 1" in summary
    assert "is not finite" in summary
    assert "Repeat the command" in summary
    assert bench.record("markov")["status"] == "finished"
    failed = bench.record("lrurec")
    assert failed["status"] == "failed"
    assert failed["failure"]["kind"] == "non-finite"
    assert failed["environment"]["cpu"]
    assert read_record(bench.folder("lrurec") / "record.json").failure == failed["failure"]
    assert "checkpoint.safetensors" not in bench.files()

    report = bench.call("report", "--csv")
    assert report.code == 0
    assert "markov" in report.out

    again = bench.run(*words)
    assert again.code == 1
    assert "1 of 3 cells are finished already" in again.words
    assert "[1/2] synthetic / lrurec / seed 0" not in again.words.partition("Error")[0]
    assert bench.record("lrurec")["started"] >= failed["started"]


def test_a_worker_that_is_killed_is_recorded_and_resumed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    show = CellProgress.show

    def kill_in_epoch_2(progress: CellProgress, event: Event) -> None:
        show(progress, event)
        if isinstance(event, EpochEnded) and event.epoch == 2:
            (worker,) = psutil.Process().children()
            worker.kill()

    words = (*SMALL, "--models", "lrurec", "--epochs", "12")
    with monkeypatch.context() as patch:
        patch.setattr(CellProgress, "show", kill_in_epoch_2)
        outcome = bench.run(*words, processes=True)
    assert outcome.code == 1
    assert "the process was killed, probably because memory ran out" in outcome.words
    assert bench.record("lrurec")["failure"]["kind"] == "killed"
    assert "checkpoint.safetensors" in bench.files()
    plan = bench.run(*words, "--dry-run")
    assert "to be resumed" in plan.out
    again = bench.run(*words)
    assert again.code == 0
    assert "resumed after epoch" in again.words
    assert bench.record("lrurec")["training"]["epochs"] == 12
    assert "checkpoint.safetensors" not in bench.files()


@pytest.mark.slow
def test_two_commands_on_one_store_do_not_get_in_each_others_way(bench: Bench) -> None:
    words = ("run", *TINY, *SMALL, "--models", "lrurec", "--epochs", "40")
    first = bench.start(*words)
    assert first.saw("epoch 2/40")
    second = bench.call(*words, "--executor", "inline")
    assert second.code == 0
    assert "synthetic / lrurec / seed 0 is being run by another command; it is looked at again" in second.words
    assert "another command has finished it" in second.words
    assert "epoch" not in second.words
    outcome = first.wait()
    assert outcome.code == 0
    assert "epoch 40/40" in outcome.words
    record = read_record(bench.folder("lrurec") / "record.json")
    assert record.finished
    assert Ranks.read(bench.folder("lrurec") / "ranks.parquet").metrics() == record.accuracy
    assert bench.files() == FILES


def test_another_protocol_is_another_cell(bench: Bench) -> None:
    def keys(*words: str) -> str:
        return bench.run("--models", "popularity", *words, "--dry-run").out

    changes = ("--protocol recbole", "--protocol lrurec", "--split temporal", "--max-len 19")
    assert len({keys(), *(keys(*words.split()) for words in changes)}) == 5
    assert bench.run("--models", "popularity", "--split", "temporal", "--protocol", "recbole").code == 0
    record = bench.record("popularity")
    protocol = record["definition"]["protocol"]
    assert (protocol["name"], protocol["split"], protocol["max_len"]) == ("recbole", "temporal", 20)
    assert 0 < record["dataset"]["evaluated_users"] < 50
    assert record["dataset"]["ceiling"] is None, "the ceiling is that of the leave-one-out targets"


def test_the_epoch_can_be_chosen_by_a_sample_of_users_every_few_epochs(bench: Bench) -> None:
    words = ("--models", "lrurec", *SMALL, "--epochs", "3", "--validate-users", "7", "--validate-every", "2")
    assert bench.run(*words).code == 0
    record = bench.record("lrurec")
    training = record["definition"]["training"]
    assert (training["validate_users"], training["validate_every"]) == (7, 2)
    assert [entry["validation"] is None for entry in record["training"]["history"]] == [True, False, False]
    assert record["dataset"]["evaluated_users"] == 50, "the test is of all users"


def test_a_failure_never_replaces_what_was_finished(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.run("--models", "popularity").code == 0
    before = bench.record("popularity")
    # The worker of a forced rerun dies before it has done anything.
    monkeypatch.setattr(process, "WORKER", "import os; os.kill(os.getpid(), 9)")
    outcome = bench.run("--models", "popularity", "--force", processes=True)
    assert outcome.code == 1
    assert "killed" in outcome.words
    assert bench.record("popularity") == before
