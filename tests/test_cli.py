"""The command line itself: help, listings, reports, streams and exit codes."""

import csv
import dataclasses
import errno
import io
import json
import os
import pty
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import seqbench
from seqbench import planning
from seqbench.cli import app
from seqbench.data.catalog import load_catalog
from seqbench.models import MODELS, find_model, load_model
from seqbench.models.base import SequenceModel
from seqbench.ops.backends import BACKENDS
from seqbench.protocol import Protocol
from seqbench.results import SCHEMA_VERSION, Definition, Record, write_record
from seqbench.settings import configure
from seqbench.show.datasets import short_count
from seqbench.show.models import POSITIONS, WIDTH, parameter_words
from tests.kit import Bench

COMMANDS = (
    "",
    "prepare",
    "run",
    "report",
    "compare",
    "kernels",
    "rm",
    "env",
    "list",
    "list models",
    "list datasets",
    "list runs",
)
HEAVY = ("torch", "pandas", "pyarrow", "numpy", "scipy", "yaml", "httpx", "safetensors")

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-8]|4[0-8]|9[0-7])[0-9;]*m")


def store(results: Path, model: str = "lrurec", seed: int = 0, **changes: object) -> Path:
    """A made-up record; the folder that it is in."""
    definition = Definition("synthetic", "f1", Protocol(), model, {}, {"epochs": 1}, seed, "cpu", None)
    values = {f"{name}@{k}": 0.1 + k / 100 for name in ("hr", "ndcg", "mrr") for k in (5, 10, 20)}
    record = Record(definition, "finished", f"2026-01-0{seed + 1}T00:00:00+00:00", 2.0, {"cpu": "x"}, accuracy=values)
    record.dataset = {"users": 50, "items": 38, "interactions": 600, "evaluated_users": 50}
    for name, value in changes.items():
        setattr(record, name, value)
    write_record(results, record)
    return definition.folder(results)


@pytest.fixture
def stored(bench: Bench) -> Bench:
    """Two models, two seeds, none of them measured."""
    for model in ("lrurec", "sasrec"):
        for seed in (0, 1):
            store(bench.results, model, seed)
    return bench


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_exits_cleanly(command: str) -> None:
    outcome = CliRunner().invoke(app, [*command.split(), "--help"])
    assert outcome.exit_code == 0
    assert f"Usage: seqbench {command}".strip() in outcome.output.replace("Usage: root", "Usage: seqbench")


@pytest.mark.parametrize("command", ["prepare", "run", "report", "kernels"])
def test_help_of_the_main_commands_has_two_examples_that_parse(command: str) -> None:
    (epilog,) = [info.epilog for info in app.registered_commands if info.callback.__name__ == command]  # type: ignore[union-attr]
    examples = epilog.removeprefix("Examples: ").split("  •  ")
    assert len(examples) == 2
    assert all(example.startswith(f"seqbench {command}") for example in examples)
    for example in examples:
        assert CliRunner().invoke(app, [*example.split()[1:], "--help"]).exit_code == 0


TINY_APP = """
from typing import Annotated
import typer
app = typer.Typer(rich_markup_mode="rich")
app.callback()(lambda: None)
@app.command()
def run(option: Annotated[int | None, typer.Option(help="words")] = None) -> None: ...
app()
"""


@pytest.mark.parametrize("command", ["", pytest.param("run", marks=pytest.mark.slow)])
def test_help_takes_hardly_longer_than_that_of_the_smallest_program(command: str) -> None:
    def spent(*program: str) -> float:
        """Return processor time, which another program on the same core does not lengthen much."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *program, *command.split(), "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    ours, tiny = zip(*((spent("-m", "seqbench"), spent("-c", TINY_APP)) for _ in range(2)), strict=True)
    assert min(ours) < 2 * min(tiny), (ours, tiny)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom seqbench.cli import app\n"
        f"for command in {COMMANDS!r}:\n"
        "    assert CliRunner().invoke(app, [*command.split(), '--help']).exit_code == 0\n"
        f"sys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_a_bare_command_shows_the_help(bench: Bench) -> None:
    for words in ((), ("list",)):
        outcome = bench.call(*words)
        assert "Usage: seqbench" in outcome.out + outcome.err


def test_version(bench: Bench) -> None:
    outcome = bench.call("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"seqbench {seqbench.__version__}\n", "")


# Listings


def test_all_models_are_listed(bench: Bench) -> None:
    outcome = bench.call("list", "models")
    assert (outcome.code, outcome.err) == (0, "")
    for name in MODELS:
        (line,) = [line for line in outcome.out.splitlines() if line.startswith(f"{name} ")]
        assert load_model(name).summary in line


@pytest.mark.parametrize("name", MODELS)
def test_the_listed_number_of_parameters_is_right_for_any_catalogue(name: str) -> None:
    cls = load_model(name)
    words = parameter_words(cls)
    fixed, table = re.fullmatch(r"([\d,]+)?(?: \+ )?(?:(\d+) V)?", words).groups()  # type: ignore[union-attr]
    width = {"hidden_size": WIDTH} if issubclass(cls, SequenceModel) else {}
    for items in (5, 1000):
        model = cls(items, POSITIONS, dataclasses.replace(cls.Config(), **width))
        expected = int((fixed or "0").replace(",", "")) + int(table or 0) * (items + 1)
        assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("name", MODELS)
def test_the_settings_of_a_model_are_what_set_accepts(name: str, bench: Bench) -> None:
    outcome = bench.call("list", "models", name)
    assert outcome.code == 0
    shown = dict(re.findall(rf"^{name}\.(\w+) +(\S+)", outcome.out, re.MULTILINE))
    if not shown:
        assert f"{name} has nothing to set" in outcome.out
        return
    config, training = configure(find_model(name), shown, None)
    assert (config, training) == configure(find_model(name), {}, None)
    assert len(shown) == len({**config, **(training or {})})


def test_data_sets_are_listed_with_what_is_prepared(bench: Bench) -> None:
    outcome = bench.call("list", "datasets")
    assert (outcome.code, outcome.err) == (0, "")
    lines = {line.split()[0]: line.split() for line in outcome.out.splitlines() if line.strip()}
    assert "yes" in lines["synthetic"]
    assert "50" in lines["synthetic"]
    assert "no" in lines["ml-100k"]
    assert str(bench.home) in "".join(outcome.out.split())


def test_the_list_of_data_sets_fits_80_columns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "environment", lambda self: {"SEQBENCH_HOME": str(self.home), "COLUMNS": "80"})
    outcome = bench.call("list", "datasets")
    assert "…" not in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    for name, spec in load_catalog().items():
        assert f"\n{name} " in outcome.out
        shown = " ".join(bench.call("list", "datasets", name).out.split())
        for words in (spec.title, spec.licence, spec.citation):
            assert "".join(words.split()) in shown.replace(" ", "")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (9_999, "9,999"),
        (10_000, "10.0 k"),
        (99_949, "99.9 k"),
        (99_950, "100 k"),
        (999_499, "999 k"),
        (999_500, "1.0 M"),
        (12_345_678, "12.3 M"),
        (100_480_507, "100 M"),
    ],
)
def test_long_numbers_are_written_short(count: int, words: str) -> None:
    assert short_count(count) == words


def test_a_data_set_of_ones_own_is_listed_and_suggested(bench: Bench, tmp_path: Path) -> None:
    bench.home = tmp_path / "home"
    raw = tmp_path / "log[final].csv"
    raw.write_text("user,item,time\n" + "".join(f"{n % 9},{n},{n}\n" for n in range(99)))
    assert bench.call("prepare", "--raw", raw, "--name", "mine").code == 0
    assert "yes" in next(line for line in bench.call("list", "datasets").out.splitlines() if line.startswith("mine "))
    shown = bench.call("list", "datasets", "mine").out
    assert "log[final].csv" in shown
    assert "9 users, 99 items, 99 interactions" in shown
    for words in (("run", "--datasets", "minne"), ("list", "datasets", "minne"), ("data", "minne")):
        outcome = bench.call(*words)
        assert outcome.code == 2
        assert "Data set 'minne' is unknown. Did you mean mine?" in outcome.words


def test_a_damaged_data_set_is_warned_of_once(bench: Bench, tmp_path: Path) -> None:
    bench.home = tmp_path / "home"
    (bench.home / "prepared" / "mine").mkdir(parents=True)
    outcome = bench.run("--models", "popularity", "--dry-run")
    assert outcome.code == 0
    assert outcome.err.count("is damaged") == 1


def test_the_users_folder_may_be_written_with_a_tilde(stored: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(stored.results.parent))
    assert stored.call("list", "runs", f"--results=~/{stored.results.name}").code == 0


def test_runs_are_listed(stored: Bench) -> None:
    store(stored.results, "markov", status="failed", failure={"kind": "error", "message": "?"}, accuracy={})
    outcome = stored.call("list", "runs")
    assert (outcome.code, outcome.err) == (0, "")
    for model in ("lrurec", "sasrec", "markov"):
        assert model in outcome.out
    assert "failed" in outcome.out


def test_environment_names_folders_and_backends(bench: Bench) -> None:
    outcome = bench.call("env")
    assert (outcome.code, outcome.err) == (0, "")
    for name in BACKENDS:
        assert f"backend {name}" in outcome.out
    for words in (seqbench.__version__, "torch", "cpu: available", "auto on cpu"):
        assert words in outcome.out
    joined = "".join(outcome.out.split())
    assert str(bench.home) in joined
    assert str(bench.results) in joined


# Reports


@pytest.mark.parametrize("how", ["--latex", "--markdown", "--csv", "--json", None])
def test_a_report_is_alone_on_stdout(how: str | None, stored: Bench, tmp_path: Path) -> None:
    words = ["report", *([how] if how else [])]
    outcome = stored.call(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "sasrec" in outcome.out.lower()
    assert "\x1b" not in outcome.out
    if how == "--latex":
        first = next(line for line in outcome.out.splitlines() if not line.startswith("%"))
        assert first.startswith("\\begin") or not first
    elif how == "--csv":
        rows = list(csv.DictReader(io.StringIO(outcome.out)))
        assert {row["model"] for row in rows} == {"lrurec", "sasrec"}
    elif how == "--json":
        assert json.loads(outcome.out)["schema_version"] == 1

    again = stored.call(*words, "--output", tmp_path / "below" / "table.txt")
    assert (again.code, again.out, again.err) == (0, "", "")
    written = (tmp_path / "below" / "table.txt").read_text()
    if how:
        assert written == outcome.out
    else:
        assert "SASRec" in written


def test_the_metrics_of_a_report_can_be_chosen(stored: Bench) -> None:
    outcome = stored.call("report", "--csv", "--metric", "NDCG@20, hr@5")
    assert outcome.code == 0
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert {row["metric"] for row in rows if row["table"] == "accuracy"} == {"ndcg@20", "hr@5"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("report", "--latex", "--csv"), "Choose one format. One of --latex"),
        (("report", "--metric", "ndgc@10"), "Metric 'ndgc@10' is unknown. Did you mean ndcg@10?"),
        (("report", "--format", "latx"), "Format 'latx' is unknown. Did you mean latex?"),
        (("report", "--output", "."), "--output"),
        (("report", "--nonsense"), "No such option: --nonsense"),
        (("reprot",), "No such command 'reprot'"),
        (("list", "modles"), "No such command 'modles'"),
        (("list", "models", "lrurek"), "Model 'lrurek' is unknown. Did you mean lrurec?"),
        (("prepare",), "There is nothing to prepare: give the NAME of a data set, or --raw FILE and --name NAME."),
        (("prepare", "ml100k"), "Data set 'ml100k' is unknown. Did you mean ml-100k?"),
        (("prepare", "synthetic", "--users", "many"), "--users"),
        (("prepare", "synthetic", "--users", "0"), "--users must be at least 1"),
        (("prepare", "ml-100k", "synthetic", "--raw", "."), "--raw goes with one data set at a time"),
        (("run", "--models", "lrurek"), "Model 'lrurek' is unknown. Did you mean lrurec? See `seqbench list models`."),
        (("run", "--models", ","), "--models names nothing"),
        (("run", "--datasets", "sinthetic"), "Data set 'sinthetic' is unknown. Did you mean synthetic?"),
        (("run", "--datasets", "sinthetic", "--dry-run"), "Did you mean synthetic?"),
        (("run", "--datasets", ","), "--datasets names nothing"),
        (("run", "--seeds", "zero"), "--seeds takes numbers such as 0,1,2 or 0-4, not 'zero'"),
        (("run", "--split", "temporel"), "Split 'temporel' is unknown. Did you mean temporal?"),
        (("run", "--protocol", "recbol"), "Protocol 'recbol' is unknown. Did you mean recbole?"),
        (("run", "--epochs", "0"), "--epochs"),
        (("run", "--max-len", "0"), "--max-len"),
        (("run", "--device", "cuda:99"), "Device 'cuda:99' is not available; this machine has cpu"),
        (("run", "--backend", "cuda13"), "Backend 'cuda13' is unknown."),
        (("run", "--set", "lrurec.dropout"), "--set takes model.field=value"),
        (("run", "--set", "lrurec.dropot=0.1"), "Setting of lrurec 'dropot' is unknown. Did you mean dropout?"),
        (("run", "--set", "lrurec.dropout=x"), "dropout must be a number, not 'x'"),
        (("run", "--models", "markov", "--set", "lrurec.dropout=0"), "lrurec is not among the models of this run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_line_that_is_wrong_ends_with_2_and_changes_nothing(
    words: tuple[str, ...], said: str, stored: Bench
) -> None:
    before = stored.files()
    outcome = stored.call(*words)
    assert outcome.code == 2
    assert said in " ".join(outcome.err.replace("│", " ").split())
    assert outcome.out == ""
    assert stored.files() == before


@pytest.mark.parametrize("command", [("report",), ("report", "--latex"), ("list", "runs")])
def test_without_results_the_next_command_is_named(command: tuple[str, ...], bench: Bench) -> None:
    outcome = bench.call(*command)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"There are no results in {bench.results}" in outcome.words
    assert "Run `seqbench run` first." in outcome.words


def test_records_that_cannot_be_used_are_named_and_the_others_shown(stored: Bench) -> None:
    newer = store(stored.results, "gru4rec", schema_version=SCHEMA_VERSION + 1)
    damaged = store(stored.results, "mamba4rec")
    (damaged / "record.json").write_text("{")
    outcome = stored.call("report", "--csv")
    assert outcome.code == 0
    assert {row["model"] for row in csv.DictReader(io.StringIO(outcome.out))} == {"lrurec", "sasrec"}
    assert f"Record {newer}/record.json was written by a newer seqbench" in outcome.words
    assert f"Record {damaged}/record.json is damaged" in outcome.words
    assert "lrurec" in stored.call("list", "runs").out


def test_nothing_but_damaged_records_is_an_error(bench: Bench) -> None:
    (store(bench.results) / "record.json").write_text("{")
    outcome = bench.call("report")
    assert (outcome.code, outcome.out) == (1, "")
    assert "is damaged" in outcome.words
    assert "Repeat `seqbench run`" in outcome.words


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    stored: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "table.tex").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    outcome = stored.call("report", "--latex", "--output", tmp_path / "table.tex")
    assert outcome.code == 1
    assert "The disk is full: could not write" in outcome.words
    assert (tmp_path / "table.tex").read_text() == "old"


# Streams and terminals


def on_terminal(environment: dict[str, str], *words: str) -> str:
    """What a command writes to a terminal."""
    leader, follower = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "seqbench", *words],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**variables, **environment},
    )
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 1 << 16)
        except OSError:
            break
        if not piece:
            break
        written += piece
    process.wait()
    os.close(leader)
    return written.decode()


@pytest.mark.parametrize(
    "words", [("--help",), pytest.param(("report", "--results", "nowhere"), marks=pytest.mark.slow)]
)
def test_terminals_that_want_no_colour_get_none(words: tuple[str, ...]) -> None:
    assert COLOUR.search(on_terminal({"TERM": "xterm-256color"}, *words))
    assert not COLOUR.search(on_terminal({"TERM": "xterm-256color", "NO_COLOR": "1"}, *words))
    assert "\x1b" not in on_terminal({"TERM": "dumb"}, *words)


def test_interrupted_while_it_still_plans_a_run_ends_with_130(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(names: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "parse_models", interrupt)
    outcome = bench.run()
    assert outcome.code == 130
    assert "Traceback" not in outcome.err


def test_with_debugging_an_error_shows_where_it_came_from(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQBENCH_DEBUG", "1")
    with pytest.raises(seqbench.errors.SeqbenchError, match="There are no results"):
        bench.call("report")


def test_prepare_says_what_it_did_and_is_quiet_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path / "home", tmp_path / "results", capsys)
    words = ("prepare", "synthetic", "--users", "50", "--items", "40", "--length", "12")
    first = bench.call(*words)
    assert first.code == 0
    assert "Generating 50 users" in first.err
    assert re.search(r"users +50 +50", first.out)
    assert "Ceiling" in first.out
    again = bench.call(*words)
    assert "is already prepared" in again.words
    quiet = bench.call(*words, "--force", "-q")
    assert (quiet.code, quiet.err) == (0, "")


def test_a_wrong_data_set_name_is_said_before_anything_is_prepared(bench: Bench, tmp_path: Path) -> None:
    elsewhere = tmp_path / "home"
    outcome = bench.call("run", "--datasets", "ml-100k,ml-100", "--home", elsewhere)
    assert outcome.code == 2
    assert outcome.err.startswith("Error: Data set 'ml-100' is unknown. Did you mean ml-100k?")
    assert not elsewhere.exists()
