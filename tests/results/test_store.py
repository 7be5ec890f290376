"""The results store: stable keys, atomic writes, records that cannot be used."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seqbench.errors import SeqbenchError, StorageError, storage_error
from seqbench.files import replacing, write_json
from seqbench.protocol import Protocol
from seqbench.results import (
    RECORD,
    SCHEMA_VERSION,
    Definition,
    Record,
    UnreadableRecord,
    load_records,
    read_record,
    write_record,
)
from seqbench.results.records import LatencyPoint, Training

DEFINITION = Definition(
    dataset="ml-100k",
    fingerprint="f1e2d3c4",
    protocol=Protocol(),
    model="lrurec",
    config={"hidden_size": 64, "dropout": 0.2},
    training={"epochs": 200, "learning_rate": 0.001},
    seed=0,
    device="cpu",
    backend="torch",
)


POINT: LatencyPoint = {
    "mode": "whole", "batch": 1, "length": 64, "p50_ms": 1.0, "p95_ms": None, "p99_ms": None, "repeats": 3
}  # fmt: skip
TRAINING: Training = {"epochs": 1, "best_epoch": 1, "stopped_early": False, "seconds_to_best": 1.0, "history": []}


def record_of(**changes: Any) -> Record:
    definition = dataclasses.replace(DEFINITION, **changes)
    return Record(definition, "finished", "2026-01-02T03:04:05+00:00", 1.5, {"cpu": "x"}, accuracy={"hr@10": 0.5})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_key_is_what_it_always_was() -> None:
    """A change of this value makes every stored result look unfinished."""
    assert DEFINITION.key == "ce246364b8892344"
    assert DEFINITION.folder(Path("results")) == Path("results/ml-100k/lrurec/ce246364b8892344")


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "ml-1m"},
        {"fingerprint": "0"},
        {"protocol": Protocol(split="temporal")},
        {"protocol": Protocol(removed="nothing")},
        {"protocol": Protocol(windows="lrurec")},
        {"protocol": Protocol(max_len=51)},
        {"protocol": Protocol(selection="hr@10")},
        {"protocol": Protocol(name="paper")},
        {"protocol": Protocol(request_time=True)},
        {"model": "sasrec"},
        {"config": {"hidden_size": 64, "dropout": 0.3}},
        {"config": {"hidden_size": 64}},
        {"training": {"epochs": 201, "learning_rate": 0.001}},
        {"training": None},
        {"seed": 1},
        {"device": "cuda"},
        {"backend": "reference"},
        {"backend": None},
        {"source": "sha256:0123456789abcdef"},
        {"revision": 0},
        {"precision": "bf16"},
        {"world_size": 2},
    ],
    ids=str,
)
def test_every_field_is_part_of_the_key(changes: dict[str, Any]) -> None:
    assert dataclasses.replace(DEFINITION, **changes).key != DEFINITION.key


def test_the_fields_that_are_tested_are_all_there_are() -> None:
    assert len(dataclasses.fields(Definition)) == 13
    assert len(dataclasses.fields(Protocol)) == 7


def test_the_key_does_not_depend_on_the_order_of_settings() -> None:
    turned = dict(reversed(DEFINITION.config.items()))
    assert dataclasses.replace(DEFINITION, config=turned).key == DEFINITION.key


def test_a_definition_survives_json() -> None:
    again = Definition.from_dict(json.loads(json.dumps(dataclasses.asdict(DEFINITION))))
    assert again == DEFINITION
    assert again.key == DEFINITION.key


def test_a_record_survives_the_store(tmp_path: Path) -> None:
    record = record_of()
    write_record(tmp_path, record)
    folder = DEFINITION.folder(tmp_path)
    assert read_record(folder / RECORD) == record
    assert names(folder) == [RECORD]
    assert record.finished


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-40])


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edited(path: Path) -> None:
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps(fields))

    return edited


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda path: path.write_text(""),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("7"),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        edit(lambda fields: fields.pop("definition")),
        edit(lambda fields: fields.pop("schema_version")),
        edit(lambda fields: fields.update(schema_version="one")),
        edit(lambda fields: fields.update(schema_version=None)),
        edit(lambda fields: fields.update(definition="?")),
        edit(lambda fields: fields["definition"].update(protocol=None)),
        edit(lambda fields: fields["definition"].pop("seed")),
        edit(lambda fields: fields.update(unheard_of=1)),
        edit(lambda fields: fields.pop("status")),
        edit(lambda fields: fields.update(status="[/]")),
        edit(lambda fields: fields.update(accuracy=[1])),
        edit(lambda fields: fields.update(accuracy={"hr@10": "high"})),
        edit(lambda fields: fields.update(dataset="x")),
        edit(lambda fields: fields.update(environment={"cpu": 7})),
        edit(lambda fields: fields.update(cost={"latency": [{"mode": "whole"}]})),
        edit(lambda fields: fields.update(training={"epochs": 1})),
        edit(lambda fields: fields.update(failure="it failed")),
        edit(lambda fields: fields.update(seconds=True)),
        edit(lambda fields: fields["definition"].update(dataset="../x")),
        edit(lambda fields: fields["definition"].update(model="..")),
        edit(lambda fields: fields["definition"]["protocol"].update(max_len="50")),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"schema_version": 1e999}'),
        lambda path: path.write_text('{"schema_version": ' + "9" * 5000 + "}"),
        lambda path: path.write_text(path.read_text().replace("1.5", "1e999")),
        lambda path: path.write_text(path.read_text().replace("1.5", "NaN")),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    ],
)
def test_a_damaged_record_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    write_record(tmp_path, record_of())
    path = DEFINITION.folder(tmp_path) / RECORD
    damage(path)
    with pytest.raises(UnreadableRecord, match=r"record\.json is damaged") as caught:
        read_record(path)
    assert not caught.value.newer
    assert str(path) in caught.value.message
    assert "seqbench run" in (caught.value.hint or "")


@pytest.mark.parametrize("value", [None, True, -1, "", "[/]", [], {}, "\x1b[31m", "\ud800", [[]], {"a": {}}], ids=repr)
def test_whatever_stands_in_a_field_reading_ends_in_a_record_or_in_words(value: Any, tmp_path: Path) -> None:
    record = record_of()
    record.cost, record.training = {"parameters": 3, "latency": [POINT]}, TRAINING
    write_record(tmp_path, record)
    path = DEFINITION.folder(tmp_path) / RECORD
    stored = json.loads(path.read_text())

    def paths_below(part: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if at:
            yield at
        entries = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, each in entries:
            yield from paths_below(each, (*at, key))

    unreadable = 0
    for at in paths_below(stored):
        changed = json.loads(json.dumps(stored))
        inner = changed
        for key in at[:-1]:
            inner = inner[key]
        inner[at[-1]] = value
        path.write_text(json.dumps(changed))
        records, errors = load_records(tmp_path)
        assert len(records) + len(errors) == 1
        unreadable += len(errors)
    assert unreadable > 20


def test_a_record_of_a_newer_schema_says_so(tmp_path: Path) -> None:
    record = record_of()
    record.schema_version = SCHEMA_VERSION + 1
    write_record(tmp_path, record)
    path = DEFINITION.folder(tmp_path) / RECORD
    edit(lambda fields: fields.update(unheard_of=1))(path)
    with pytest.raises(UnreadableRecord, match=f"newer seqbench .schema {SCHEMA_VERSION + 1}") as caught:
        read_record(path)
    assert caught.value.newer
    assert "Upgrade" in (caught.value.hint or "")


def test_records_come_in_the_order_of_their_paths_and_errors_apart(tmp_path: Path) -> None:
    definitions = [
        {"dataset": "b", "model": "z"},
        {"dataset": "a", "model": "y"},
        {"dataset": "a", "model": "x", "seed": 1},
        {"dataset": "a", "model": "x", "seed": 2},
    ]
    for changes in definitions:
        write_record(tmp_path, record_of(**changes))
    broken = dataclasses.replace(DEFINITION, dataset="c").folder(tmp_path) / RECORD
    write_record(tmp_path, record_of(dataset="c"))
    cut(broken)
    (tmp_path / "a" / "x" / "half-made").mkdir()
    (tmp_path / "a" / "x" / "notes.txt").write_text("mine")
    records, errors = load_records(tmp_path)
    folders = [record.definition.folder(tmp_path) for record in records]
    assert folders == sorted(folders)
    assert len(folders) == 4
    assert [str(broken) in error.message for error in errors] == [True]


def test_no_folder_is_no_results(tmp_path: Path) -> None:
    assert load_records(tmp_path / "missing") == ([], [])


@pytest.mark.parametrize("error", [ValueError("?"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises((type(error), StorageError)):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_value_that_json_cannot_hold_leaves_the_old_record(tmp_path: Path) -> None:
    write_record(tmp_path, record_of())
    record = record_of()
    record.seconds = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, record)
    assert read_record(DEFINITION.folder(tmp_path) / RECORD).seconds == 1.5
    assert names(DEFINITION.folder(tmp_path)) == [RECORD]


def test_a_failing_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_json(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"The disk is full: could not write .*file") as caught:
        write_json(path, "new")
    assert "--results" in (caught.value.hint or "")
    assert json.loads(path.read_text()) == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="Cannot write"):
        write_json(tmp_path / "file" / "below" / RECORD, {})
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "The disk is full"),
        (errno.EDQUOT, "The disk is full"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_what_the_system_says_is_translated(code: int, words: str) -> None:
    error = storage_error(OSError(code, os.strerror(code)), "/data/x")
    assert isinstance(error, SeqbenchError)
    assert words in error.message
    assert "/data/x" in error.message
    assert error.exit_code == 1
