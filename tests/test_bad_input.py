"""Commands over files and machines that are not as they should be: what is said, and what is left."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from seqbench import planning
from seqbench.cli.words import settings
from seqbench.data import synthetic
from seqbench.data.prepared import open_prepared
from seqbench.errors import Diverged, SeqbenchError, StorageError
from seqbench.events import Failed
from seqbench.execution.failures import failed
from seqbench.models import find_model
from seqbench.protocol import choose
from seqbench.results import SCHEMA_VERSION
from seqbench.settings import parse_settings
from tests.kit import FILES, PATIENCE, QUICK, SMALL, TINY, Bench, on_small_disk


@pytest.fixture
def own(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """`seqbench` with a copy of the small data set that may be damaged."""
    shutil.copytree(home, tmp_path / "home")
    return Bench(tmp_path / "home", tmp_path / "results", capsys)


@pytest.fixture
def empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """`seqbench` with nothing prepared, on a machine without a network."""
    return Bench(tmp_path / "home", tmp_path / "results", capsys)


def archive(path: Path, rows: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("ml-100k/u.data", rows)
    return path


# Raw files


def test_a_truncated_archive_is_named(empty: Bench, tmp_path: Path) -> None:
    path = archive(tmp_path / "ml-100k.zip", "".join(f"{u}\t{i}\t3\t{u + i}\n" for u in range(30) for i in range(30)))
    path.write_bytes(path.read_bytes()[:-200])
    outcome = empty.call("prepare", "ml-100k", "--raw", path)
    assert (outcome.code, outcome.out) == (1, "")
    assert str(path) in "".join(outcome.err.split())
    assert "Traceback" not in outcome.err
    assert not list(empty.home.rglob("meta.json"))


def test_a_raw_file_that_is_not_there_is_named(empty: Bench, tmp_path: Path) -> None:
    outcome = empty.call("prepare", "ml-100k", "--raw", tmp_path / "missing.zip")
    assert outcome.code == 1
    assert "missing.zip cannot be read: No such file or directory" in outcome.words
    assert "Give --raw a file or folder that exists." in outcome.words


def test_nothing_left_after_filtering_says_what_there_was(empty: Bench, tmp_path: Path) -> None:
    path = archive(tmp_path / "ml-100k.zip", "1\t2\t3\t4\n2\t2\t3\t5\n")
    outcome = empty.call("prepare", "ml-100k", "--raw", path)
    assert outcome.code == 1
    assert "No interaction of ml-100k passes the filters" in outcome.words
    assert "2 users, 1 items and 2 interactions" in outcome.words
    assert "Lower --min-user or --min-item." in outcome.words
    assert empty.call("list", "datasets").out.count(" yes ") == 0


def test_without_a_network_the_source_and_the_way_out_are_named(empty: Bench) -> None:
    outcome = empty.call("prepare", "ml-100k")
    assert outcome.code == 1
    assert "ml-100k could not be fetched from any of its sources" in outcome.words
    assert "seqbench prepare ml-100k --raw PATH" in outcome.words


def test_without_a_network_a_run_falls_back_to_generated_data(empty: Bench) -> None:
    outcome = empty.call("run", "--models", "popularity", "--device", "cpu", "--executor", "inline", *QUICK)
    assert outcome.code == 0, outcome.err
    assert "could not be fetched" in outcome.words
    assert "Running on synthetic data instead, which needs no network." in outcome.words
    assert empty.record("popularity")["definition"]["dataset"] == "synthetic"


def test_without_a_network_a_data_set_that_was_asked_for_is_not_replaced(empty: Bench) -> None:
    outcome = empty.call("run", "--models", "popularity", "--datasets", "ml-100k")
    assert outcome.code == 1
    assert "could not be fetched" in outcome.words
    assert empty.files() == []


def test_a_dry_run_says_what_would_be_fetched(empty: Bench) -> None:
    outcome = empty.call("run", "--models", "popularity", "--dry-run")
    assert outcome.code == 0
    assert "ml-100k is not prepared yet; a real run prepares it first (downloads 4.9 MB)." in outcome.words
    assert not empty.results.exists()
    assert not empty.home.exists()


# Machines


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 3 TiB"), "Error: Out of memory (Unable to allocate 3 TiB). Ask for less"),
        (PermissionError(13, "Permission denied", "/data"), "Error: /data: Permission denied. Check the path"),
        (OSError("odd"), "Error: odd. Check the path"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_machine_refuses_is_said_in_words(
    error: Exception, said: str, empty: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(synthetic, "generate", refuse)
    outcome = empty.call("prepare", "synthetic", "-q")
    assert outcome.code == 1
    assert outcome.words.startswith(said)
    monkeypatch.setenv("SEQBENCH_DEBUG", "1")
    with pytest.raises(type(error)):
        empty.call("prepare", "synthetic", "-q")


def test_a_terminal_that_cannot_show_a_character_shows_another(empty: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii", write_through=True))
    assert empty.call("list", "datasets").code == 0
    assert b"ml-100k" in screen.getvalue()


# Prepared data sets


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize("damage", [cut, edit])
def test_a_damaged_data_set_fails_the_run_with_the_command_that_repairs_it(
    damage: Callable[[Path], None], own: Bench
) -> None:
    damage(own.home / "prepared" / "synthetic" / "interactions.parquet")
    outcome = own.run("--models", "popularity")
    assert outcome.code == 1
    assert "prepared/synthetic is damaged" in outcome.words
    assert "Prepare it again with `seqbench prepare synthetic --force`." in outcome.words
    assert own.record("popularity")["status"] == "failed"


def test_a_data_set_that_is_prepared_anew_during_a_run_is_not_taken_for_the_one_before(
    own: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = planning.Definition
    monkeypatch.setattr(
        planning, "Definition", lambda **fields: definition(**{**fields, "fingerprint": "of the one before"})
    )
    outcome = own.run("--models", "popularity")
    assert outcome.code == 1
    assert "synthetic was prepared anew since the run began. Repeat the command." in outcome.words


def test_a_data_set_without_its_description_is_left_out_with_a_warning(own: Bench) -> None:
    shutil.copytree(own.home / "prepared" / "synthetic", own.home / "prepared" / "other")
    (own.home / "prepared" / "other" / "meta.json").write_text("{")
    outcome = own.run("--models", "popularity", "--dry-run")
    assert outcome.code == 0
    assert "prepared/other is damaged" in outcome.words
    assert "`seqbench prepare --raw FILE --name other --force` or `seqbench prepare NAME --name other" in outcome.words
    assert "synthetic" in outcome.out


def test_a_data_set_of_a_newer_version_is_not_touched(own: Bench) -> None:
    path = own.home / "prepared" / "synthetic" / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "schema_version": 99, "seqbench": "9.0"}))
    for options in ((), ("--dry-run",)):
        outcome = own.run("--models", "popularity", "--datasets", "synthetic", *options)
        assert outcome.code == 1
        assert "was prepared by a newer seqbench (9.0)" in outcome.words
        assert "seqbench prepare synthetic --force" in outcome.words
    assert json.loads(path.read_text())["schema_version"] == 99


def test_a_temporal_split_with_nobody_to_evaluate_says_so(empty: Bench, tmp_path: Path) -> None:
    # Everybody's last item comes at the same moment, so no user has both a validation and a test target.
    rows = "".join(f"{u}\t{i}\t3\t{i if i < 7 else 100}\n" for u in range(1, 11) for i in range(1, 11))
    path = archive(tmp_path / "ml-100k.zip", rows)
    assert empty.call("prepare", "ml-100k", "--raw", path).code == 0
    outcome = empty.run("--models", "popularity", "--split", "temporal")
    assert outcome.code == 1
    assert "The temporal split leaves no validation user." in outcome.words
    assert "Use another --split" in outcome.words


# Results folder


def test_a_file_where_the_results_should_be_is_named_before_any_work(bench: Bench) -> None:
    bench.results.write_text("mine")
    outcome = bench.run("--models", "popularity")
    assert outcome.code == 1
    assert f"Cannot write {bench.results}" in outcome.words
    assert "--results" in outcome.words
    assert bench.results.read_text() == "mine"


def test_a_results_path_that_is_no_text_is_refused(bench: Bench) -> None:
    outcome = bench.run("--models", "popularity", "--results", os.fsdecode(b"caf\xe9"))
    assert outcome.code == 2
    assert "The path of the results folder is not UTF-8" in outcome.words


def test_markup_in_a_path_is_shown_as_it_is(bench: Bench) -> None:
    outcome = bench.run("--models", "popularity", "--dry-run", "--results", "a[/b]c[red]d")
    assert outcome.code == 0
    assert "Plan for a[/b]c[red]d" in outcome.out


def test_a_store_that_cannot_be_written_to_is_enough_where_all_is_finished(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.run("--models", "popularity").code == 0
    touch = Path.touch

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if bench.results in path.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        touch(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", refuse)
    assert bench.run("--models", "popularity").code == 0
    assert "Read-only" in bench.run("--models", "popularity", "--force").words


def test_a_file_where_a_cell_should_be_ends_the_run(bench: Bench) -> None:
    bench.results.mkdir()
    (bench.results / "synthetic").write_text("mine")
    outcome = bench.run("--models", "popularity,markov")
    assert outcome.code == 1
    assert "Cannot write" in outcome.words
    assert "Traceback" not in outcome.err


def test_a_record_of_a_newer_version_is_never_overwritten(bench: Bench) -> None:
    assert bench.run("--models", "popularity").code == 0
    path = bench.folder("popularity") / "record.json"
    newer = json.dumps({**json.loads(path.read_text()), "schema_version": SCHEMA_VERSION + 1})
    path.write_text(newer)
    outcome = bench.run("--models", "popularity,markov")
    assert outcome.code == 1
    assert "was written by a newer seqbench" in outcome.words
    assert "pip install --upgrade seqbench" in outcome.words
    assert path.read_text() == newer
    assert bench.files().count("record.json") == 1


def test_a_damaged_record_is_measured_again(bench: Bench) -> None:
    assert bench.run("--models", "popularity").code == 0
    before = bench.record("popularity")
    path = bench.folder("popularity") / "record.json"
    path.write_text(path.read_text()[:100])
    outcome = bench.run("--models", "popularity")
    assert outcome.code == 0
    assert "is damaged" in outcome.words
    assert "It is measured again." in outcome.words
    assert bench.record("popularity")["accuracy"] == before["accuracy"]


def test_a_damaged_checkpoint_fails_its_cell_and_force_starts_over(bench: Bench) -> None:
    (definition,) = planning.define(
        open_prepared("synthetic", bench.home),
        [find_model("lrurec")],
        [0],
        protocol=choose("fair", split="leave-one-out", max_len=20),
        preset=None,
        overrides=parse_settings(settings(SMALL[1::2]), {"lrurec": find_model("lrurec")}),
        epochs=1,
        device="cpu",
        backend="torch",
    )
    folder = definition.folder(bench.results)
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"not tensors")
    words = (*SMALL, "--models", "lrurec", "--epochs", "1")
    outcome = bench.run(*words)
    assert outcome.code == 1
    assert "checkpoint.safetensors is damaged" in outcome.words
    assert "--force" in outcome.words
    assert bench.folder("lrurec") == folder
    assert bench.run(*words, "--force").code == 0
    assert bench.record("lrurec")["status"] == "finished"


# A full disk


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_is_finished(bench: Bench, tmp_path: Path) -> None:
    """A real file system with room for a cell that is finished, but not for the checkpoints of the next."""
    mount = tmp_path / "mount"
    bench.results = mount / "results"
    wrapper = on_small_disk(mount, "96k")
    stored = Bench(bench.home, tmp_path / "stored", bench.capsys)
    assert stored.run("--models", "popularity").code == 0
    run = f"{sys.executable} -m seqbench run --executor inline " + " ".join(TINY)
    # What is left has to be looked at before the file system goes.
    script = (
        f'cp -r "{stored.results}" "{bench.results}"\n'
        f"{run} --models popularity,lrurec,markov --epochs 2 --set lrurec.hidden_size=64\n"
        f'code=$?\nfind "{mount}" -type f -size +0 -printf "%f\\n"\n'
        f"{sys.executable} -m seqbench report --csv > /dev/null || exit 8\nexit $code"
    )
    done = subprocess.run(
        [*wrapper, "sh", "-c", script],
        env={**os.environ, **bench.environment()},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stderr.split())
    assert "synthetic / lrurec / seed 0: The disk is full: could not write" in said
    assert "Free some space" in said
    assert "markov" not in said, "nothing more is tried"
    assert sorted(done.stdout.split()) == FILES


def test_errors_of_the_worker_keep_their_words() -> None:
    assert failed(StorageError("full", "free some")).kind == "storage"
    assert failed(Diverged("The loss")).kind == "non-finite"
    assert failed(SeqbenchError("odd", "do this")) == Failed("error", "odd", "do this")
    assert failed(MemoryError()).kind == "out-of-memory"
    oom = failed(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 7 bytes\nmore lines"))
    assert (oom.kind, "more lines" in oom.message) == ("out-of-memory", False)
    unknown = failed(ZeroDivisionError("division by zero"))
    assert unknown.message == "ZeroDivisionError: division by zero"
    assert "SEQBENCH_DEBUG=1" in str(unknown.hint)
