"""From the words of a command line to cells."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from seqbench import planning, settings
from seqbench.cli import words
from seqbench.cli.app import completing, dataset_names, model_names, protocol_names
from seqbench.data.prepared import PreparedDataset, open_prepared
from seqbench.errors import UsageError
from seqbench.events import Event, Phase, Step, following
from seqbench.execution.orders import Order
from seqbench.losses import LOSSES
from seqbench.models import MODELS, find_model, load_model
from seqbench.models.base import CountingModel, SequenceModel
from seqbench.planning import parse_models
from seqbench.protocol import Protocol
from seqbench.results import CHECKPOINT, RECORD, Definition, Record, UnreadableRecord, write_record
from seqbench.settings import configure
from seqbench.show.plan import plan_table
from seqbench.show.progress import CellProgress, RunProgress

NEURAL = [name for name in MODELS if issubclass(load_model(name), SequenceModel)]
COUNTING = [name for name in MODELS if issubclass(load_model(name), CountingModel)]


@pytest.fixture(scope="module")
def prepared(home: Path) -> PreparedDataset:
    return open_prepared("synthetic", home)


def overrides(texts: list[str], models: list[str]) -> dict[str, dict[str, Any]]:
    return settings.parse_settings(words.settings(texts), {name: find_model(name) for name in models})


def define(prepared: PreparedDataset, models: list[str], **changes: Any) -> list[Definition]:
    defaults: dict[str, Any] = {
        "seeds": [0],
        "protocol": Protocol(max_len=20),
        "preset": None,
        "overrides": {},
        "epochs": None,
        "device": "cpu",
        "backend": "torch",
    }
    options = defaults | changes
    return planning.define(prepared, [find_model(name) for name in models], options.pop("seeds"), **options)


def test_models_are_all_or_the_chosen_ones_in_order() -> None:
    assert list(planning.parse_models(None)) == list(MODELS)
    assert list(parse_models(["markov", "lrurec", "markov"])) == ["markov", "lrurec"]


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Model 'lrurek' is unknown\. Did you mean lrurec\?") as caught:
        parse_models(["markov", "lrurek"])
    assert caught.value.exit_code == 2
    assert "seqbench list models" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["", " , "])
def test_no_model_at_all_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--models names nothing: '{text}'"):
        words.names(text, "--models", "seqbench list models")


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0,1,2", [0, 1, 2]), (" 3, 1,3 ", [3, 1]), ("0-2,7", [0, 1, 2, 7]), ("3-3", [3])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert words.seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "x", "1.5", "-1", "0,-2", "0 1", "1e3"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--seeds takes numbers such as 0,1"):
        words.seeds(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("8h", 28800), ("1h30m", 5400), ("90 s", 90), ("2d", 172800), ("5min", 300)]
)
def test_times(text: str, seconds: float) -> None:
    assert words.duration(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "8", "0h", "-1h", "h", "1.5h", "30m1h", "8 hours"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--time-budget takes times such as 8h, 1h30m or 90s, not"):
        words.duration(text, "--time-budget")


def test_overrides_by_model() -> None:
    found = overrides(["lrurec.dropout=0.5", "lrurec.layers = 3", "lrurec.dropout=0.6"], ["lrurec", "markov"])
    assert found == {"lrurec": {"dropout": "0.6", "layers": "3"}, "markov": {}}


def test_a_setting_without_a_model_is_set_in_every_model_that_has_it() -> None:
    found = overrides(["dropout=0.5", "lrurec.dropout=0.1"], ["lrurec", "sasrec", "markov"])
    assert found == {"lrurec": {"dropout": "0.1"}, "sasrec": {"dropout": "0.5"}, "markov": {}}
    with pytest.raises(UsageError, match=r"Setting 'dropuot' is unknown\. Did you mean dropout\?"):
        overrides(["dropuot=0.5"], ["lrurec", "markov"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lrurec.dropout", "takes model.field=value"),
        ("lrurec.=0.5", "'lrurec.' is no setting"),
        (".dropout=0.5", "'.dropout' is no setting"),
        ("=", "takes model.field=value"),
        ("lrurek.dropout=1", r"Model 'lrurek' is unknown\. Did you mean lrurec\?"),
        ("markov.dropout=1", "markov is not among the models of this run"),
    ],
)
def test_overrides_that_cannot_be_meant(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        overrides([setting], ["lrurec"])
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_overrides_reach_the_config_with_the_types_of_the_defaults() -> None:
    config, training = configure(
        find_model("lrurec"), {"dropout": "0", "layers": "3", "patience": "7", "learning_rate": "1e-2"}, None
    )
    assert (config["dropout"], config["layers"]) == (0.0, 3)
    assert isinstance(config["dropout"], float)
    assert training is not None
    assert (training["patience"], training["learning_rate"]) == (7, 0.01)
    defaults = load_model("lrurec").training_defaults
    assert defaults is not None
    assert training["epochs"] == defaults.epochs


@pytest.mark.parametrize("name", NEURAL)
def test_the_epochs_flag_wins(name: str) -> None:
    _, training = configure(find_model(name), {"epochs": "5"}, 3)
    assert training is not None
    assert training["epochs"] == 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("dropuot", "0.5", r"Setting of lrurec 'dropuot' is unknown\. Did you mean dropout\?"),
        ("layers", "2.5", "layers must be a whole number, not '2.5'"),
        ("layers", "", "layers must be a whole number"),
        ("layers", "0", "layers must be at least 1"),
        ("dropout", "much", "dropout must be a number, not 'much'"),
        ("dropout", "1", r"dropout must be in \[0, 1\)"),
        ("dropout", "nan", "dropout must be"),
        ("learning_rate", "-1", "learning_rate must be positive"),
        ("learning_rate", "inf", "learning_rate must be a number"),
        ("weight_decay", "nan", "weight_decay must"),
        ("clip_norm", "inf", "clip_norm must be a number"),
        ("r_min", "nan", "r_min must be a number"),
        ("epochs", "0", "epochs must be at least 1"),
        ("patience", "0", "patience must be at least 1"),
        ("batch_size", "-3", "batch_size must be at least 1"),
        ("objective", "prefixes", "objective must be all-positions or prefix, not 'prefixes'"),
        ("objective", "", "objective must be all-positions or prefix"),
        (
            "loss",
            "softmax",
            f"loss must be {' or '.join(LOSSES)}, not 'softmax'",
        ),
        ("negatives", "0", "negatives must be at least 1"),
        ("proposal", "zipf", "proposal must be uniform or log-uniform, not 'zipf'"),
        ("calibration", "1.5", "calibration must be between 0 and 1"),
        ("calibration", "nan", "calibration must be a number"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(field: str, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        configure(find_model("lrurec"), {field: value}, None)
    assert caught.value.exit_code == 2
    assert "seqbench list models lrurec" in (caught.value.hint or "")


@pytest.mark.parametrize("name", NEURAL)
def test_the_default_objective_fits_the_model(name: str) -> None:
    cls = load_model(name)
    _, training = configure(find_model(name), {}, None)
    assert training is not None
    assert cls.Config().causal or training["objective"] == "prefix"


def test_words_reach_the_training_config() -> None:
    _, training = configure(find_model("sasrec"), {"objective": "prefix", "loss": "gbce"}, None)
    assert training is not None
    assert (training["objective"], training["loss"]) == ("prefix", "gbce")


def test_all_positions_of_a_model_that_sees_the_future_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = load_model("sasrec")
    monkeypatch.setattr(cls.Config, "causal", False)
    with pytest.raises(UsageError, match=r"sasrec: objective must be prefix, not 'all-positions': .* not causal"):
        configure(find_model("sasrec"), {"objective": "all-positions"}, None)
    configure(find_model("sasrec"), {"objective": "prefix"}, None)


@pytest.mark.parametrize("name", COUNTING)
def test_a_model_without_settings_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has nothing to set"):
        configure(find_model(name), {"dropout": "0.5"}, None)
    assert configure(find_model(name), {}, 3) == ({}, None)


def test_every_default_is_plain_json(prepared: PreparedDataset) -> None:
    for definition in define(prepared, list(MODELS)):
        again = Definition.from_dict(json.loads(json.dumps(dataclasses.asdict(definition), allow_nan=False)))
        assert again.key == definition.key


def test_a_cell_for_every_model_and_seed_but_counting_models_once(prepared: PreparedDataset) -> None:
    definitions = define(prepared, list(MODELS), seeds=[3, 4])
    found = [(definition.model, definition.seed) for definition in definitions]
    expected = [(name, seed) for name in MODELS for seed in ([3, 4] if name in NEURAL else [0])]
    assert found == expected
    assert len({definition.key for definition in definitions}) == len(definitions)
    for definition in definitions:
        assert definition.dataset == "synthetic"
        assert definition.fingerprint == prepared.fingerprint
        assert definition.backend == ("torch" if load_model(definition.model).training_defaults else None)


def test_the_number_of_a_device_is_not_part_of_the_definition(prepared: PreparedDataset) -> None:
    (first,) = define(prepared, ["sasrec"], device="cuda:0")
    (second,) = define(prepared, ["sasrec"], device="cuda:1")
    assert first == second
    assert first.device == "cuda"


def test_an_unknown_backend_is_refused(prepared: PreparedDataset) -> None:
    with pytest.raises(UsageError, match=r"Backend 'touch' is unknown\. Did you mean torch\?"):
        define(prepared, ["lrurec"], backend="touch")


def test_what_the_store_holds_decides_the_state(
    prepared: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (definition,) = define(prepared, ["lrurec"])
    folder = definition.folder(tmp_path)

    def state(*, force: bool = False) -> str:
        return planning.look_up(definition, tmp_path, force=force).state

    assert (state(), state(force=True)) == ("new", "forced")
    folder.mkdir(parents=True)
    (folder / CHECKPOINT).touch()
    assert (state(), state(force=True)) == ("resumable", "forced")
    record = Record(definition, "failed", "2026-01-01", 1.0, {}, failure={"kind": "killed", "message": "?"})
    write_record(tmp_path, record)
    assert state() == "resumable"
    (folder / CHECKPOINT).unlink()
    assert state() == "new"
    record.status, record.failure = "finished", None
    write_record(tmp_path, record)
    assert (state(), state(force=True)) == ("finished", "forced")
    assert capsys.readouterr().err == ""
    (folder / RECORD).write_text("{")
    assert state() == "new"
    said = " ".join(capsys.readouterr().err.split())
    assert "is damaged" in said
    assert "It is measured again." in said
    record.schema_version += 1
    write_record(tmp_path, record)
    with pytest.raises(UnreadableRecord, match="newer seqbench"):
        state()
    assert state(force=True) == "forced"


# Presets


@pytest.mark.parametrize("name", MODELS)
def test_presets_are_settings_of_their_model(name: str) -> None:
    cls = load_model(name)
    defaults = configure(find_model(name), {}, None)
    for fields in cls.presets.values():
        config, training = configure(find_model(name), {}, None, fields)
        merged = config | (training or {})
        assert {field: merged[field] for field in fields} == fields
        assert {k: type(v) for k, v in merged.items()} == {
            k: type(v) for part in defaults for k, v in (part or {}).items()
        }


def test_a_preset_is_what_the_paper_sets_and_the_command_line_wins(
    prepared: PreparedDataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load_model("lrurec"), "presets", {"synthetic": {"dropout": 0.6, "batch_size": 128}})

    def settings(name: str, preset: str | None, **overrides: str) -> tuple[float, int]:
        (found,) = define(prepared, [name], preset=preset, overrides={name: overrides})
        assert found.training is not None
        return found.config["dropout"], found.training["batch_size"]

    assert settings("lrurec", None) == (0.2, 32)
    assert settings("lrurec", "paper") == (0.6, 128)
    assert settings("lrurec", "paper", dropout="0.1") == (0.1, 128)
    assert capsys.readouterr().err == ""
    assert settings("sasrec", "paper") == settings("sasrec", None)
    assert "The paper of sasrec gives no values for synthetic" in " ".join(capsys.readouterr().err.split())
    define(prepared, ["popularity"], preset="paper")
    assert capsys.readouterr().err == ""


def test_an_unknown_preset_is_refused(prepared: PreparedDataset) -> None:
    with pytest.raises(UsageError, match=r"Preset 'papper' is unknown\. Did you mean paper"):
        define(prepared, ["lrurec"], preset="papper")


def test_what_is_not_a_default_is_found_in_a_definition(prepared: PreparedDataset) -> None:
    def changes(name: str, **options: Any) -> dict[str, Any]:
        (definition,) = define(prepared, [name], **options)
        stored = Definition.from_dict(json.loads(json.dumps(dataclasses.asdict(definition))))
        return dict(settings.changes(load_model(name), stored.config, stored.training))

    assert changes("lrurec") == {"config": {}, "training": {}}
    overrides = {"lrurec": {"hidden_size": "8", "dropout": "0.2", "patience": "3"}}
    assert changes("lrurec", epochs=2, overrides=overrides) == {
        "config": {"hidden_size": 8},
        "training": {"epochs": 2, "patience": 3},
    }
    assert changes("popularity") == {"config": {}}


def test_a_plan_says_how_long_it_takes_at_most_by_the_cells_that_are_finished(
    prepared: PreparedDataset, tmp_path: Path
) -> None:
    (done,) = define(prepared, ["lrurec"], epochs=4)
    record = Record(done, "finished", "2025-11-01T10:00:00+00:00", 20.0, {}, cost={"peak_memory_bytes": 3 << 20})
    record.training = {"epochs": 4, "best_epoch": 4, "stopped_early": False, "seconds_to_best": 1.0, "history": []}
    write_record(tmp_path, record)
    wanted = define(prepared, ["lrurec", "sasrec"], seeds=[0, 1, 2], epochs=6)
    cells = [planning.look_up(each, tmp_path) for each in wanted]
    plan = planning.Plan(cells, {}, tmp_path, tmp_path, "cpu")
    words = str(plan_table(plan).caption)
    assert "6 cells, 6 of them not finished. At most 1 min 30 s" in words  # 3 cells of 6 epochs of 5 s
    assert "3 MiB of memory" in words
    assert "3 have none" in words


def test_names_are_completed_after_a_comma() -> None:
    assert completing(model_names)("lrurec,sas") == ["lrurec,sasrec"]
    assert completing(protocol_names)("re") == ["recbole"]
    assert "ml-100k" in completing(dataset_names)("ml-1")


def test_validation_has_a_bar_of_its_own(prepared: PreparedDataset) -> None:
    (definition,) = define(prepared, ["lrurec"], epochs=2)
    progress = CellProgress("cell", Order(definition, "lrurec", Path(), Path(), "cpu"), RunProgress())
    progress.show(Step(1, 1, 2))
    progress.show(Phase("validating epoch 1", 30, 40))
    (task,) = progress.bar.tasks
    assert (task.completed, task.total, task.fields["words"]) == (30, 40, "validating epoch 1")
    progress.show(Phase("evaluating"))
    assert task.total is None


def test_what_takes_long_tells_how_far_it_is_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    times = iter([0.0, 0.1, 0.3, 0.3, 0.4, 0.6, 0.6])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    progress = following("evaluating", told.append)
    for done in range(1, 5):
        progress(done, 4)
    assert told == [Phase("evaluating", 2, 4), Phase("evaluating", 4, 4)]
