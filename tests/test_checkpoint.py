"""Checkpoints that were damaged, or made by somebody else, are told and never believed."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqbench import tensor_file
from seqbench.errors import SeqbenchError, StorageError
from seqbench.tensor_file import DamagedFile
from tests.trainkit import make_trainer

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    make_trainer(checkpoint=path, epochs=1).run()
    return path


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_the_bomb_of_these_tests_would_explode(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


BYTES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one byte long": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "endless header": lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:]),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("exploded")))),
    "torch": lambda path: torch.save(Bomb(path.with_name("exploded")), path),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", BYTES)
def test_what_is_no_checkpoint_is_refused_and_never_run(how: str, checkpoint: Path) -> None:
    BYTES[how](checkpoint)
    with pytest.raises(SeqbenchError, match=r"checkpoint\.safetensors is damaged") as caught:
        make_trainer(checkpoint=checkpoint).resume()
    assert "--force" in (caught.value.hint or "")
    assert not checkpoint.with_name("exploded").exists()


def test_no_flipped_bit_is_believed(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    tensors, text = tensor_file.read(checkpoint, CPU, "")
    start = 8 + int.from_bytes(content[:8], "little")
    places = [
        *range(8),
        *range(8, start, max(1, start // 60)),
        *range(start, len(content), (len(content) - start) // 60),
    ]
    unchanged = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        checkpoint.write_bytes(damaged)
        try:
            found, words = tensor_file.read(checkpoint, CPU, "")
        except DamagedFile:
            continue
        unchanged += 1  # such as a blank that became another one
        assert words == text
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert unchanged < len(places) / 20


def first(tensors: dict[str, Tensor], prefix: str) -> str:
    return next(name for name, tensor in sorted(tensors.items()) if name.startswith(prefix) and tensor.dim() == 2)


def without(tensors: dict[str, Tensor], prefix: str) -> None:
    for name in [name for name in tensors if name.startswith(prefix)]:
        del tensors[name]


def poisoned(value: float, prefix: str) -> Callable[[dict[str, Tensor], dict[str, Any]], Any]:
    return lambda tensors, state: tensors[first(tensors, prefix)].view(-1)[3:4].fill_(value)


CONTENTS: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], Any]] = {
    "no weights": lambda tensors, state: without(tensors, "model/"),
    "no best weights": lambda tensors, state: without(tensors, "best/"),
    "no optimizer for one parameter's second moment": lambda tensors, state: without(
        tensors, "optimizer/0/0/exp_avg_sq"
    ),
    "a parameter too many in the optimizer": lambda tensors, state: tensors.update(
        {"optimizer/0/99/step": torch.zeros(())}
    ),
    "a tensor of nobody's": lambda tensors, state: tensors.update(other=torch.zeros(3)),
    "weights of another shape": lambda tensors, state: tensors.update({first(tensors, "model/"): torch.zeros(3)}),
    "weights of another type": lambda tensors, state: tensors.update(
        {first(tensors, "best/"): tensors[first(tensors, "best/")].double()}
    ),
    "moments of another shape": lambda tensors, state: tensors.update({"optimizer/0/0/exp_avg": torch.zeros(3)}),
    "weights that are not finite": poisoned(torch.nan, "model/"),
    "best weights that are not finite": poisoned(torch.inf, "best/"),
    "moments that are not finite": poisoned(torch.nan, "optimizer/"),
    "no history": lambda tensors, state: state.pop("history"),
    "a history that is no list": lambda tensors, state: state.update(history={"epoch": 1}),
    "an epoch that is no object": lambda tensors, state: state.update(history=[3]),
    "an unknown field": lambda tensors, state: state.update(epok=1),
    "a missing field": lambda tensors, state: state.pop("best"),
    "more epochs than there is history of": lambda tensors, state: state.update(epoch=5),
    "a best epoch that never was": lambda tensors, state: state.update(best_epoch=2),
    "another best value": lambda tensors, state: state.update(best=0.99),
    "a negative epoch": lambda tensors, state: state.update(epoch=-1, history=[]),
    "an epoch that is true": lambda tensors, state: state.update(epoch=True),
    "seconds as text": lambda tensors, state: state.update(seconds="1.0"),
    "seconds without end": lambda tensors, state: state.update(seconds=float("inf")),
    "a loss that is no number": lambda tensors, state: state["history"][0].update(loss=float("nan")),
    "a memory of 400 digits": lambda tensors, state: state.update(peak_memory=10**400),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_a_checkpoint_of_other_content_is_refused(what: str, checkpoint: Path) -> None:
    """The digest fits: somebody wrote it so."""
    tensors, text = tensor_file.read(checkpoint, CPU, "")
    state = json.loads(text)
    CONTENTS[what](tensors, state)
    tensor_file.write(checkpoint, tensors, json.dumps(state))
    trainer = make_trainer(checkpoint=checkpoint)
    with pytest.raises(DamagedFile, match=r"checkpoint\.safetensors is damaged"):
        trainer.resume()
    assert trainer.state.epoch == 0


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", "1" * 5000, '{"history": ' + "[" * 100_000])
def test_a_state_that_cannot_be_parsed_is_refused(text: str, checkpoint: Path) -> None:
    tensors, _ = tensor_file.read(checkpoint, CPU, "")
    tensor_file.write(checkpoint, tensors, text)
    with pytest.raises(DamagedFile):
        make_trainer(checkpoint=checkpoint).resume()


def test_a_state_that_is_far_too_long_is_not_parsed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqbench.training import checkpoint as module

    monkeypatch.setattr(module, "STATE_LIMIT", 100)
    with pytest.raises(DamagedFile, match="characters"):
        make_trainer(checkpoint=checkpoint).resume()


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(DamagedFile, match="missing or unknown"):
        make_trainer("gru4rec", checkpoint=checkpoint).resume()


def test_a_full_disk_keeps_the_checkpoint_of_the_epoch_before(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from safetensors import torch as stored

    before = checkpoint.read_bytes()

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(stored, "save_file", full)
    trainer = make_trainer(checkpoint=checkpoint, epochs=2)
    trainer.resume()
    with pytest.raises(StorageError, match="The disk is full"):
        trainer.run()
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
