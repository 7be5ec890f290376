"""Searches: what is proposed, what is pruned, what is stored, what is chosen, and how reports show it."""

import csv
import io
import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import seqbench
from seqbench.errors import UsageError
from seqbench.events import Failed, Finished, Listener, Outcome, Paused
from seqbench.execution import EXECUTORS, Executor
from seqbench.execution.orders import Order
from seqbench.execution.stopping import Stop
from seqbench.models import MODELS, find_model
from seqbench.planning import parse_models
from seqbench.reporting.formats import FORMATS
from seqbench.results import Record, load_records, write_record
from seqbench.tuning.dimensions import Choice, Range
from seqbench.tuning.rounds import Hunt
from seqbench.tuning.samplers import SAMPLERS, Told
from seqbench.tuning.searches import curve_of, searches
from seqbench.tuning.space import Space, check_spaces, own_spaces, read_spaces
from tests.kit import SMALL, TINY, Bench

SPACE: Space = {
    "learning_rate": Range(1e-4, 1e-2, log=True),
    "layers": Range(1, 3),
    "hidden_size": Choice((8, 16)),
    "dropout": Range(0.1, 0.3),
}
FILE = "learning_rate: {low: 1e-6, high: 0.1, log: true}\nlrurec.dropout: [0.1, 0.2]\n"
HERE = TINY[: TINY.index("--lengths")]
WORDS = ("--models", "lrurec", "--epochs", "4", *HERE, *SMALL)


def trials_of(bench: Bench) -> dict[int, dict[str, Any]]:
    """Return what must not depend on how a search was made: number → settings, pruned, curve, validation."""
    found = {}
    for path in bench.results.glob("*/*/*/record.json"):
        record = json.loads(path.read_text())
        if record["trial"]:
            curve = [entry["validation"] for entry in record["training"]["history"]] if record["training"] else None
            facts = {"seed": record["definition"]["seed"], "curve": curve, "best": record["validation"]}
            found[record["trial"].pop("number")] = {**record["trial"], **facts}
    return found


def tune(bench: Bench, *words: object, trials: int = 6) -> Any:
    space = bench.results.parent / "space.yaml"
    space.parent.mkdir(exist_ok=True)
    space.write_text(FILE)
    return bench.call("tune", *WORDS, "--trials", trials, "--space", space, "--executor", "inline", *words)


def pretend(order: Order, *_: object) -> Finished:
    """Write the record of a trial whose figures follow from its settings, without training anything."""
    attempt = order.attempt
    assert attempt is not None
    assert order == Order.from_json(order.to_json())
    quality = 1 / (1 + abs(math.log10(attempt.settings["learning_rate"] / 0.02)) + attempt.settings["dropout"])
    history: list[Any] = []
    for epoch in range(1, 5):
        counts = dict.fromkeys(("train_seconds", "evaluate_seconds", "timed_seconds"), 0.1)
        history.append({"epoch": epoch, "loss": 1.0, "validation": quality * epoch / 4, **counts})
        history[-1] |= {"timed_interactions": 1, "timed_sequences": 1}
        if pruned := epoch < 4 and history[-1]["validation"] < [*attempt.bars, *[-1.0] * 4][epoch - 1]:
            break
    record = Record(order.definition, "trial", "2026-01-01T00:00:00+00:00", 1.0, {})
    record.validation = {"ndcg@10": history[-1]["validation"]}
    record.training = {
        "epochs": len(history),
        "best_epoch": len(history),
        "stopped_early": False,
        "seconds_to_best": 1.0,
        "history": history,
    }
    record.trial = attempt.trial(pruned=pruned)
    write_record(order.results, record)
    return Finished(record.validation, 1.0)


@contextmanager
def executor(execute: Callable[[Order, Listener, Stop], Outcome]) -> Iterator[str]:
    with EXECUTORS.added("toy", Executor(execute)):
        yield "toy"


@pytest.fixture(scope="module")
def searched(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A search of six trials that were really trained, which tests leave as it was."""
    bench = Bench(home, tmp_path_factory.mktemp("searched") / "results")
    assert tune(bench).code == 0
    return bench


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_proposed_follows_from_seed_and_outcomes_alone(sampler: str) -> None:
    told = [
        Told({"learning_rate": 1e-4 * (at + 1), "layers": 1 + at % 3, "hidden_size": 8, "dropout": 0.2}, (0.1 * at,))
        for at in range(9)
    ]
    propose = SAMPLERS[sampler]
    first = propose(SPACE, 7, told, 4)
    assert propose(SPACE, 7, told, 4) == first
    assert propose(SPACE, 8, told, 4) != first
    assert len(first) == 4
    for settings in first:
        assert settings not in [trial.settings for trial in told]
        assert list(settings) == list(SPACE)
        assert 1e-4 <= settings["learning_rate"] <= 1e-2
        assert settings["learning_rate"] == float(f"{settings['learning_rate']:.3g}")
        assert settings["layers"] in (1, 2, 3)
        assert settings["hidden_size"] in (8, 16)
    assert len({str(settings) for settings in first}) == 4


def test_sobol_spreads_trials_over_the_space_and_goes_on_where_it_was() -> None:
    points = SAMPLERS["sobol"](SPACE, 0, [], 64)
    logs = sorted(math.log10(point["learning_rate"]) for point in points)
    assert all(abs(log - (-4 + 2 * (at + 0.5) / 64)) < 0.04 for at, log in enumerate(logs))
    assert all(20 <= sum(point["layers"] == each for point in points) <= 23 for each in (1, 2, 3))
    assert SAMPLERS["sobol"](SPACE, 0, [Told(point) for point in points[:40]], 24) == points[40:]


def test_tpe_looks_where_trials_were_good() -> None:
    space = {"learning_rate": Range(1e-4, 1e-2, log=True)}
    told = [Told(point) for point in SAMPLERS["sobol"](space, 0, [], 24)]
    good = [Told(each.settings, (1 / (1 + abs(math.log10(each.settings["learning_rate"] / 3e-3))),)) for each in told]
    near = SAMPLERS["tpe"](space, 0, good, 8)
    assert statistics.median(abs(math.log10(each["learning_rate"] / 3e-3)) for each in near) < 0.25


def test_a_space_that_is_used_up_gives_what_is_left() -> None:
    space = {"layers": Choice((1, 2, 3))}
    first = SAMPLERS["sobol"](space, 0, [], 2)
    assert len(first) == 2
    assert len(SAMPLERS["sobol"](space, 0, [Told(each) for each in first], 4)) == 1


def test_tpe_without_optuna_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="needs Optuna") as caught:
        SAMPLERS["tpe"](SPACE, 0, [], 1)
    assert "seqbench[tune]" in str(caught.value.hint)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].training_defaults])
def test_every_model_can_be_what_its_space_says(name: str) -> None:
    entries = {name: find_model(name)}
    spaces = own_spaces(entries)
    assert {"learning_rate", "dropout", "hidden_size", "layers", "weight_decay"} <= spaces[name].keys()
    check_spaces(spaces, entries, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no settings"),
        ("- dropout", "names no settings"),
        ("a: [", "cannot be read as YAML"),
        ("dropuot: [0.1]", "Did you mean dropout"),
        ("lrurrec.dropout: [0.1]", "Did you mean lrurec"),
        ("sasrec.dropout: [0.1]", "not among the models of this run"),
        ("dropout: 0.1", "dropout must be a range such as"),
        ("dropout: {low: 0.1}", "dropout.high is missing"),
        ("dropout: {low: 0.1, high: 0.2, step: 0.1}", "dropout has no step"),
        ("dropout: {low: 0.2, high: 0.1}", "low must be below high"),
        ("learning_rate: {low: 0, high: 0.1, log: true}", "low must be above 0 where log is true"),
        ("learning_rate: {low: 0.1, high: .nan}", "learning_rate.high must be finite"),
        ("layers: [1.5]", "layers must be a whole number"),
        ("layers: [1, 1]", "each once"),
        ("layers: []", "values must be given"),
        ("loss: {low: 1, high: 2}", "loss must be a list of values"),
        ("dropout: [0.1, 1.5]", "The space of lrurec goes too far: lrurec: dropout must be in"),
        ("hidden_size: [8, 16]", "lrurec.hidden_size is both set and searched"),
    ],
)
def test_what_a_space_cannot_be_is_said(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    models = parse_models(["lrurec"])
    with pytest.raises(UsageError) as caught:
        check_spaces(read_spaces(tmp_path / "space.yaml", models), models, {"lrurec": {"hidden_size": 8}})
    assert words in caught.value.message
    assert caught.value.hint


def test_numbers_of_a_space_can_be_written_as_yaml_does_not_read_them(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("learning_rate: {low: 1e-4, high: 1e-2, log: true}\nlayers: {low: 1, high: 3}")
    read = read_spaces(tmp_path / "space.yaml", parse_models(["lrurec"]))["lrurec"]
    assert read == {"learning_rate": Range(1e-4, 1e-2, log=True), "layers": Range(1, 3)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--models", "lrurrec"), "Did you mean lrurec"),
        (("--models", "popularity,markov"), "There is nothing to tune"),
        (("--trials", "0"), "0 trials choose nothing"),
        (("--sampler", "sobel"), "Did you mean sobol"),
        (("--space", "/nowhere.yaml"), "/nowhere.yaml cannot be read"),
        (
            ("--trials", "9", "--space", "{few}"),
            "The space of lrurec on synthetic has 2 settings, too few for 9 trials",
        ),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is(
    bench: Bench, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "few.yaml").write_text("dropout: [0.1, 0.2]")
    given = [word.format(few=tmp_path / "few.yaml") for word in words]
    outcome = bench.call("tune", "--models", "lrurec", *HERE, "--datasets", "synthetic", *given)
    assert outcome.code == 2
    assert said in outcome.words
    assert not list(bench.results.glob("*/*"))


def test_a_bar_is_the_median_of_the_best_so_far_of_complete_trials() -> None:
    curves = [(0.1, 0.3, 0.3, 0.5), (0.2, 0.2, 0.4), (0.3, 0.4, 0.5, 0.6)]
    hunt = Hunt("", SPACE, {}, Any, [Told({}, curve) for curve in curves])
    hunt.told += [Told({}, (0.9, 0.9), pruned=True), Told({})]
    assert hunt.bars(4) == (-1.0, -1.0, 0.4, 0.5)  # the second one stopped early, with 0.4
    assert hunt.bars(100)[:6] == (-1.0, -1.0, -1.0, -1.0, 0.5, 0.5)
    del hunt.told[0]
    assert hunt.bars(4) == ()


def test_trials_are_validated_and_never_tested(searched: Bench) -> None:
    assert set(searched.files()) == {"record.json"}
    records = [json.loads(path.read_text()) for path in searched.results.glob("*/*/*/record.json")]
    assert len(records) == 6
    for record in records:
        assert record["status"] == "trial"
        assert record["accuracy"] == {}
        assert record["validation"]["ndcg@10"] > 0
        assert "latency" not in record["cost"]
        assert record["definition"]["seed"] == 1000
    trials = trials_of(searched)
    assert trials[0]["settings"] == {"learning_rate": 0.001, "dropout": 0.2}  # the defaults
    pruned = [number for number, trial in trials.items() if trial["pruned"]]
    assert pruned
    assert min(pruned) >= 4  # the first round has nothing to be compared with
    assert all(len(trials[number]["curve"]) < 4 for number in pruned)


def test_a_curve_is_the_best_so_far_where_epochs_are_worse_or_not_validated(searched: Bench) -> None:
    record = load_records(searched.results)[0][0]
    assert record.training is not None
    first = record.training["history"][0]
    record.training["history"] = [first | {"validation": value} for value in (None, 0.3, 0.2, None, 0.4)]  # type: ignore[typeddict-item]
    assert curve_of(record) == (-1.0, 0.3, 0.3, 0.3, 0.4)


def test_a_pruned_trial_is_never_chosen(searched: Bench) -> None:
    records, _ = load_records(searched.results)
    best = searches(records)["lrurec"].best
    for record in records:
        if record.trial and record.trial["pruned"]:
            record.validation["ndcg@10"] = 1.0
    assert searches(records)["lrurec"].best == best


def test_a_search_that_is_repeated_finds_everything_done(searched: Bench) -> None:
    before = {path: path.stat().st_mtime_ns for path in searched.results.rglob("*") if path.is_file()}
    again = Bench(searched.home, searched.results)
    assert tune(again).code == 0
    assert {path: path.stat().st_mtime_ns for path in searched.results.rglob("*") if path.is_file()} == before


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_gives_the_same_at_once_killed_and_beside_itself(
    sampler: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--sampler", sampler)
    straight = Bench(bench.home, tmp_path / "straight" / "results")
    with executor(pretend) as name:
        assert tune(straight, *words, "--executor", name, trials=14).code == 0
    expected = trials_of(straight)
    assert sorted(expected) == list(range(14))
    assert 0 < sum(trial["pruned"] for trial in expected.values()) < 14

    left = [2, 7, 100]  # cells before the command is killed

    def killed(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        left[0] -= 1
        if left[0] < 0:
            del left[0]
            raise Killed
        return pretend(order)

    with executor(killed) as name:
        for _ in range(2):
            with pytest.raises(Killed):
                tune(bench, *words, "--executor", name, trials=14)
        assert tune(bench, *words, "--executor", name, trials=14).code == 0
    assert trials_of(bench) == expected

    beside = Bench(bench.home, tmp_path / "beside" / "results")
    monkeypatch.setattr("seqbench.execution.slots.os.sched_getaffinity", lambda _: {0, 1, 2})
    with executor(pretend) as name:
        assert tune(beside, *words, "--executor", name, "--jobs", "3", trials=14).code == 0
    assert trials_of(beside) == expected


def test_a_search_that_runs_out_of_time_ends_and_goes_on_when_repeated(bench: Bench) -> None:
    def pause(order: Order, *_: object) -> Outcome:
        assert order.attempt is not None
        return Paused(0) if order.attempt.number == 3 else pretend(order)

    with executor(pause) as name:
        outcome = tune(bench, "--executor", name, "--time-budget", "1h", "--models", "lrurec")
    assert outcome.code == 0, outcome.err
    assert "The time is up: 1 of 4 cells are not finished" in outcome.words
    assert len(list(bench.results.rglob("record.json"))) == 3, "and no round is proposed without its outcome"
    with executor(pretend) as name:
        assert tune(bench, "--executor", name, "--models", "lrurec").code == 0
    assert len(list(bench.results.rglob("record.json"))) == 6


def test_a_longer_search_goes_on_from_a_shorter_one(bench: Bench) -> None:
    ran: list[int] = []

    def run(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        assert order.attempt is not None
        ran.append(order.attempt.number)
        return pretend(order)

    with executor(run) as name:
        tune(bench, "--executor", name, trials=6)
        tune(bench, "--executor", name, "--no-prune", trials=8)
    assert ran == list(range(8))


def test_a_trial_that_fails_by_its_settings_is_one_and_is_not_tried_again(bench: Bench) -> None:
    tried: list[int] = []

    def run(order: Order, on_event: Listener, stop: Stop) -> Outcome:
        assert order.attempt is not None
        tried.append(order.attempt.number)
        if order.attempt.number == 2:
            return Failed("non-finite", "the loss", None)
        if order.attempt.number == 1:
            return Failed("killed", "no idea why", None)
        return pretend(order)

    with executor(run) as name:
        outcome = tune(bench, "--executor", name, trials=3)
        assert outcome.code == 1
        assert "1 of 3 cells failed" in outcome.words
        assert "no idea why" in outcome.words
        tune(bench, "--executor", name, trials=3)
    assert tried == [0, 1, 2, 1]
    report = bench.call("report", "--csv", "--table", "tuning").out
    lines = list(csv.DictReader(io.StringIO(report)))
    counts = {line["metric"]: line["mean"] for line in lines if line["table"] == "tuning"}
    assert (counts["trials"], counts["failed"]) == ("3.0", "2.0")


def test_what_was_chosen_is_run_over_seeds_and_reported_beside_the_defaults(
    searched: Bench, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(home, tmp_path / "results", capsys)
    shutil.copytree(searched.results, bench.results)
    early = bench.run("--models", "markov,lrurec,gru4rec", "--tuned")
    assert early.code == 2
    assert "No trial of gru4rec on synthetic" in early.words
    assert "seqbench tune --models gru4rec --datasets synthetic" in early.words
    assert "either tuned or preset" in bench.run("--models", "lrurec", "--tuned", "--preset", "paper").words

    assert bench.run("--models", "lrurec", *SMALL, "--epochs", "2", "--no-latency").code == 0
    # The settings of a trial are all of its settings: nothing need be said again.
    assert bench.run("--models", "lrurec", "--tuned", "--seeds", "0,1", "--epochs", "2", "--no-latency").code == 0
    trials = trials_of(bench)
    best = max((trial for trial in trials.values() if not trial["pruned"]), key=lambda each: each["best"]["ndcg@10"])
    ran = [json.loads(path.read_text()) for path in bench.results.glob("*/*/*/record.json")]
    tuned = [
        record["definition"]
        for record in ran
        if record["status"] == "finished" and record["definition"]["training"]["learning_rate"] != 0.001
    ]
    assert [each["seed"] for each in sorted(tuned, key=lambda each: each["seed"])] == [0, 1]
    assert {each["training"]["learning_rate"] for each in tuned} == {best["settings"]["learning_rate"]}
    assert {(each["config"]["dropout"], each["config"]["hidden_size"]) for each in tuned} == {
        (best["settings"]["dropout"], 8)
    }

    (section,) = seqbench.api.make_report(bench.results, seeds=[0, 1]).sections
    accuracy, tuning, settings = (
        next(table for table in section.tables if table.kind == kind) for kind in ("accuracy", "tuning", "settings")
    )
    assert [row.label for row in accuracy.rows[:2]] == ["LRURec (default)", "LRURec (tuned, 6 trials)"]
    assert tuning.rows[0].cells["trials"].mean == 6
    assert tuning.rows[0].cells["best"].mean == best["best"]["ndcg@10"]
    assert settings.footnotes == ["with hidden_size=8, layers=1, patience=100, batch_size=16"]
    assert {name: cell.mean for name, cell in settings.rows[0].cells.items()} == best["settings"]
    for name in FORMATS:
        assert "tuned" in seqbench.report(bench.results, format=name)


def test_a_store_with_nothing_but_trials_has_a_report_in_every_format(searched: Bench) -> None:
    for name in FORMATS:
        text = seqbench.report(searched.results, format=name)
        assert "LRURec" in text or "lrurec" in text
        assert "learning" in text


def test_a_cell_that_is_finished_counts_as_a_trial_and_stays_finished(bench: Bench) -> None:
    options: Any = {
        "settings": {"lrurec.hidden_size": 8, "lrurec.layers": 1},
        "epochs": 4,
        "max_len": 20,
        "device": "cpu",
        "backend": "torch",
        "executor": "inline",
        "results": bench.results,
        "home": bench.home,
    }
    run = partial(seqbench.run, seeds=[1000], latency=seqbench.LatencyGrid(lengths=()), **options)
    run("lrurec", "synthetic")
    with executor(pretend) as name:
        (found,) = seqbench.tune("lrurec", "synthetic", trials=2, **options | {"executor": name})
    assert [record.status for record in found.trials] == ["finished", "trial"]
    assert found.trials[0].trial is not None
    assert found.trials[0].trial["settings"]["learning_rate"] == 0.001
    run("lrurec", "synthetic", force=True)
    assert sorted(trials_of(bench)) == [0, 1]
