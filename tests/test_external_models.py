"""Models that are not part of seqbench: files of the user's own, and entry points of other packages."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seqbench import planning
from seqbench.errors import UsageError
from seqbench.models import MODELS, find_model, load_model, model_names
from seqbench.models.base import CountingModel, IncrementalModel
from seqbench.planning import parse_models
from seqbench.show.models import models_table
from tests.kit import ROOT, Bench

EXAMPLE = ROOT / "examples" / "mean_of_embeddings.py"
REFERENCE = f"{EXAMPLE}:MeanOfEmbeddings"

CONSTANT = """
import torch
from seqbench.models.base import CountingModel

class Constant(CountingModel):
    summary, paper = "all alike", "(test)"
    def fit(self, sequences):
        self.register_buffer("scores", torch.full((self.items + 1,), VALUE))
    def score(self, items, lengths):
        return self.scores.expand(len(items), -1)
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a file of the user's own."""

    def written(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


# Files


def test_the_example_runs_from_end_to_end(bench: Bench) -> None:
    settings = ("--set", "MeanOfEmbeddings.hidden_size=8", "--set", "MeanOfEmbeddings.loss=bce")
    words = ("--models", f"{REFERENCE},popularity", *settings, "--epochs", "2")
    outcome = bench.run(*words)
    assert outcome.code == 0, outcome.err
    record = bench.record("MeanOfEmbeddings")
    definition = record["definition"]
    assert (definition["model"], definition["source"]) == ("MeanOfEmbeddings", find_model(REFERENCE).source)
    assert (definition["config"]["hidden_size"], definition["training"]["loss"]) == (8, "bce")
    assert record["training"]["epochs"] == 2
    assert {point["mode"] for point in record["cost"]["latency"]} == {"whole", "step"}
    assert bench.record("popularity")["definition"]["source"] is None
    assert "2 of 2 cells are finished already" in bench.run(*words).words
    assert "MeanOfEmbeddings" in bench.call("report").out
    assert "MeanOfEmbeddings.dropout" in bench.call("list", "models", REFERENCE).out


def test_the_example_gives_in_steps_what_it_gives_at_once() -> None:
    import torch

    cls = load_model(REFERENCE)
    model = cls(20, 6, cls.Config()).eval()
    assert isinstance(model, IncrementalModel)
    items = torch.randint(1, 21, (3, 6))
    whole, state = model(items, torch.full((3,), 6)), model.initial_state(3)
    for t in range(6):
        states, state = model.step(items[:, t], state)
        torch.testing.assert_close(states, whole[:, t])


def test_a_file_that_changed_is_a_new_cell(bench: Bench, write: Write) -> None:
    path = write(CONSTANT.replace("VALUE", "0.0"))
    words = ("--models", f"{path}:Constant")
    assert bench.run(*words).code == 0
    assert "1 of 1 cells are finished already" in bench.run(*words).words
    write(CONSTANT.replace("VALUE", "1.0"))
    assert bench.run(*words).code == 0
    records = [json.loads(found.read_text()) for found in bench.results.glob("*/Constant/*/record.json")]
    assert len({record["definition"]["source"] for record in records}) == 2
    rows = csv.DictReader(io.StringIO(bench.call("report", "--csv").out))
    assert {row["configuration"] for row in rows if row["model"] == "Constant"} == {
        f"source={record['definition']['source']}" for record in records
    }, "the report tells them apart"


def test_a_file_that_changes_before_its_cell_is_run_is_refused(
    bench: Bench, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(CONSTANT.replace("VALUE", "0.0"))
    monkeypatch.setattr(planning, "find_model", lambda reference: replace(find_model(reference), source="another"))
    outcome = bench.run("--models", f"{path}:Constant", processes=True)
    assert outcome.code == 1
    assert "has changed since the run began" in outcome.words


def test_its_settings_are_checked_like_those_of_any_model(bench: Bench) -> None:
    outcome = bench.run("--models", REFERENCE, "--set", "MeanOfEmbeddings.dropuot=0.1")
    assert outcome.code == 2
    assert "Setting of MeanOfEmbeddings 'dropuot' is unknown. Did you mean dropout?" in outcome.words
    assert f"seqbench list models {REFERENCE}" in outcome.words
    outcome = bench.run("--models", f"{REFERENCE},lrurec", "--set", "MeanOfEmbedding.dropout=0.1")
    assert "Did you mean MeanOfEmbeddings?" in outcome.words


@pytest.mark.parametrize("default", ["None", "(1, 2)"])
def test_a_setting_whose_kind_is_not_known_is_refused(default: str, bench: Bench, write: Write) -> None:
    config = (
        "import dataclasses\nfrom seqbench.models.base import ModelConfig\n"
        f"@dataclasses.dataclass(frozen=True)\nclass Odd(ModelConfig):\n    sizes: object = {default}\n"
    )
    path = write(config + CONSTANT.replace("VALUE", "0.0") + "    Config = Odd\n")
    outcome = bench.run("--models", f"{path}:Constant", "--set", "Constant.sizes=3")
    assert outcome.code == 2
    assert "Constant: sizes cannot be set on the command line" in outcome.words


def test_a_class_may_be_in_a_file_beside_others(write: Write) -> None:
    path = write(CONSTANT.replace("VALUE", "0.0") + "\nclass Another(Constant):\n    pass\n")
    entry = find_model(f"{path}:Another")
    assert (entry.name, entry.display) == ("Another", "Another")
    assert issubclass(entry.cls, CountingModel)


def test_a_file_with_one_model_need_not_name_its_class(bench: Bench, write: Write) -> None:
    path = write(CONSTANT.replace("VALUE", "0.0"))
    assert find_model(str(path)) == find_model(f"{path}:Constant")
    assert find_model(str(path)).reference == f"{path}:Constant"
    assert bench.run("--models", path).code == 0
    assert "1 of 1 cells are finished already" in bench.run("--models", f"{path}:Constant").words
    assert "Constant has nothing to set" in bench.call("list", "models", path).out


def test_finding_a_model_in_a_file_does_not_execute_it(write: Write) -> None:
    entry = find_model(f"{write('x = 1 / 0')}:Mine")
    assert entry.source is not None
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        _ = entry.cls


@pytest.mark.parametrize(
    ("text", "suffix", "words"),
    [
        (None, ":Mine", r"Cannot read .*mine\.py: No such file"),
        ("x = 1", "", r"mine\.py' does not say which class is the model; there is no model in it"),
        (
            f"{CONSTANT}\nclass Another(Constant):\n    pass\n",
            "",
            r"does not say which class is the model; its models are Constant, Another\.",
        ),
        (CONSTANT, ":", r"does not say which class is the model"),
        (CONSTANT, ":Constnt", r"mine\.py has no class Constnt; its models are Constant\."),
        ("x = 1", ":Mine", r"has no class Mine; there is no model in it"),
        ("class Mine:\n    pass", ":Mine", r"Mine in .*mine\.py is not a model: it must be a class derived from"),
        ("Mine = 7", ":Mine", r"is not a model"),
        ("from seqbench.models.base import SequenceModel as Mine", ":Mine", r"does not define forward, item_weights"),
        ("x = 1\ny = 1 / 0", ":Mine", r"cannot be executed: ZeroDivisionError: .* \(line 2\)"),
        ("x = 1\nimport nothing_like_it", ":Mine", r"ModuleNotFoundError: .*nothing_like_it.* \(line 2\)"),
        ("x = (", ":Mine", r"cannot be executed: SyntaxError: .* \(line 1\)"),
        ("b = '\x00'", ":Mine", r"cannot be executed: SyntaxError"),
        ("import sys\nsys.exit(0)", ":Mine", r"cannot be executed: SystemExit: 0 \(line 2\)"),
        (f"{CONSTANT}    Config = None", ":Constant", r"Constant in .* cannot be made .* Config must be a dataclass"),
        (f"{CONSTANT}    training_defaults = 3\n", ":Constant", r"training_defaults must be a TrainingConfig if"),
        (f"{CONSTANT}    def __init__(self): pass\n", ":Constant", r"Constant\(items, max_len, config\): too many"),
    ],
)
def test_a_file_that_is_no_model_is_refused(text: str | None, suffix: str, words: str, write: Write) -> None:
    path = write(text) if text is not None else Path("mine.py")
    with pytest.raises(UsageError, match=words) as caught:
        parse_models([f"{path}{suffix}"])
    assert caught.value.exit_code == 2
    assert caught.value.hint


NEURAL = """
import torch
from seqbench.models.base import SequenceModel

class Mine(SequenceModel):
    summary, paper = "mine", "(test)"
    def __init__(self, items, max_len, config):
        super().__init__(items, max_len, config)
        self.embedding = torch.nn.Embedding(items + 1, 4)
    def item_weights(self):
        return self.embedding.weight
    def forward(self, items, lengths):
        x = self.embedding(items)
        return RESULT
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            NEURAL.replace("RESULT", "torch.cat([x[:, :1], x], 1)"),
            r"Mine.forward must return a tensor of shape (1, 8, 4)",
        ),
        (
            NEURAL.replace("RESULT", "x.mean(1)"),
            r"Mine.forward must return a tensor of shape (1, 8, 4) here, not (1, 4)",
        ),
        (NEURAL.replace("RESULT", "(x, None)"), "not tuple"),
        (NEURAL.replace("RESULT", "x + x.roll(-1, 1)"), "says that it is causal, but a later item changes"),
        (NEURAL.replace("RESULT", "x[[][0]]"), "mine.py, line 14)"),
        (NEURAL.replace("RESULT", "x / 0"), "The training loss of epoch 1 is not finite"),
        (
            CONSTANT.replace("self.items + 1", "99").replace("VALUE", "0.0").replace("Constant", "Mine"),
            "Mine.score must",
        ),
        (CONSTANT.replace("VALUE", "float('nan')").replace("Constant", "Mine"), "A score of Mine is not finite"),
    ],
)
def test_a_model_that_computes_something_else_is_a_failed_cell_that_says_what(
    text: str, words: str, bench: Bench, write: Write
) -> None:
    outcome = bench.run("--models", f"{write(text)}:Mine", "--epochs", "1")
    assert outcome.code == 1
    assert words in outcome.words


def test_names_are_taken_once(write: Write) -> None:
    path = write(CONSTANT)
    other = write(CONSTANT, "other.py")
    with pytest.raises(UsageError, match="Two models are called Constant"):
        parse_models([f"{path}:Constant", f"{other}:Constant"])
    named = write(CONSTANT.replace("class Constant", "class popularity"), "named.py")
    with pytest.raises(UsageError, match="has the name of a registered model"):
        parse_models([f"{named}:popularity"])


# Entry points


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with two models, one of them broken, and one that would replace ours."""
    (tmp_path / "theirs.py").write_text(CONSTANT.replace("VALUE", "0.0"))
    info = tmp_path / "theirs-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[seqbench.models]\nconstant = theirs:Constant\nbroken = theirs:Missing\nlrurec = theirs:Constant\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
def test_models_of_other_packages_are_found_behind_ours(tmp_path: Path) -> None:
    assert model_names() == [*MODELS, "broken", "constant"]
    assert load_model("constant").summary == "all alike"
    assert list(parse_models(["constant", "lrurec"])) == ["constant", "lrurec"]
    before = find_model("constant").source
    assert before is not None
    assert before.startswith("theirs 1.2 sha256:")
    assert find_model("lrurec").source is None
    with (tmp_path / "theirs.py").open("a") as file:
        file.write("# edited in place\n")
    assert find_model("constant").source != before
    assert load_model("lrurec").__name__ == "LRURec"
    with pytest.raises(UsageError, match="Did you mean constant"):
        load_model("constnt")


@pytest.mark.usefixtures("package")
def test_a_broken_one_names_its_package_and_spoils_no_listing() -> None:
    with pytest.raises(UsageError, match=r"Model broken of the package theirs 1\.2 cannot be imported: AttributeError"):
        load_model("broken")
    assert models_table().row_count == len(MODELS) + 2
    assert list(planning.parse_models(None)) == [*MODELS, "constant"], "what was not asked for is left out"


@pytest.mark.usefixtures("package")
def test_a_name_that_two_packages_register_is_refused(tmp_path: Path) -> None:
    info = tmp_path / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[seqbench.models]\nconstant = theirs:Constant\n")
    with pytest.raises(UsageError, match=r"Model constant of the package .* is registered by .*, too"):
        load_model("constant")
