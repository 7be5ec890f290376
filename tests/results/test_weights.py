"""Trained weights: what comes back, and what is not believed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import seqbench
from seqbench import tensor_file
from seqbench.errors import SeqbenchError, UsageError
from seqbench.results import RECORD, WEIGHTS
from tests.kit import SMALL, Bench

MODEL = """
import torch
from seqbench.models.base import CountingModel
class Mine(CountingModel):
    summary = "mine"
    paper = ""
    def fit(self, sequences):
        pass
    def score(self, items, lengths):
        return torch.zeros(len(items), self.items + 1)
"""


@pytest.fixture(scope="module")
def original(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished cell."""
    bench = Bench(home, tmp_path_factory.mktemp("weights"))
    assert bench.run("--models", "lrurec", *SMALL, "--epochs", "1").code == 0
    return bench.folder("lrurec")


@pytest.fixture
def cell(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "cell"))


def rewrite(cell: Path, change: Callable[[dict[str, torch.Tensor], dict], None]) -> None:
    """Change tensors or blueprint, with a digest that fits."""
    tensors, text = tensor_file.read(cell / WEIGHTS, torch.device("cpu"), "")
    blueprint = json.loads(text)
    change(tensors, blueprint)
    tensor_file.write(cell / WEIGHTS, tensors, json.dumps(blueprint))


def test_a_flipped_bit_is_noticed(cell: Path) -> None:
    content = bytearray((cell / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (cell / WEIGHTS).write_bytes(content)
    with pytest.raises(SeqbenchError, match=r"is damaged .*changed since it was written") as caught:
        seqbench.load(cell)
    assert "--force" in (caught.value.hint or "")


@pytest.mark.parametrize("content", [b"", b"not tensors", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_none_is_noticed(content: bytes, cell: Path) -> None:
    (cell / WEIGHTS).write_bytes(content)
    with pytest.raises(SeqbenchError, match="is damaged"):
        seqbench.load(cell)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fingerprint", "of another"), ("dataset", "ml-1m"), ("items", 7), ("max_len", 3), ("model", "sasrec"),
     ("config", {}), ("key", "0" * 16), ("source", "sha256:0")],
)  # fmt: skip
def test_weights_of_another_cell_are_refused(field: str, value: object, cell: Path) -> None:
    rewrite(cell, lambda tensors, blueprint: blueprint.update({field: value}))
    with pytest.raises(SeqbenchError, match=f"its {field} is not that of record.json"):
        seqbench.load(cell)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors, _: tensors.update(extra=torch.zeros(3)), r"extra is \(3,\) instead of absent"),
        (lambda tensors, _: tensors.pop(min(tensors)), "is missing instead of"),
        (lambda tensors, _: tensors.update({min(tensors): torch.zeros(2, 2)}), r"is \(2, 2\) instead of"),
        (lambda _, blueprint: blueprint.update(more=1), "blueprint has no 'more'"),
        (lambda _, blueprint: blueprint.update(items="many"), "blueprint.items must be a whole number, not 'many'"),
        (lambda _, blueprint: blueprint.pop("config"), "blueprint.config is missing"),
    ],
)
def test_tensors_and_fields_that_do_not_fit_are_named(
    change: Callable[[dict[str, torch.Tensor], dict], None], said: str, cell: Path
) -> None:
    rewrite(cell, change)
    with pytest.raises(SeqbenchError, match=said):
        seqbench.load(cell)


def test_a_record_that_was_changed_no_longer_fits(cell: Path) -> None:
    record = json.loads((cell / RECORD).read_text())
    record["dataset"]["items"] = 10**9
    (cell / RECORD).write_text(json.dumps(record))
    with pytest.raises(SeqbenchError, match=r"its items is not that of record\.json"):
        seqbench.load(cell)


def test_the_file_is_plain_safetensors(cell: Path) -> None:
    with safe_open(cell / WEIGHTS, framework="pt") as stored:
        names = set(stored.keys())
    assert names == set(seqbench.load(cell).model.state_dict())
    save_file({"x": torch.zeros(1)}, cell / WEIGHTS)
    with pytest.raises(SeqbenchError, match="it has no digest"):
        seqbench.load(cell)


def test_code_in_a_file_is_executed_only_when_it_is_named(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    reference = f"{path}:Mine"
    assert bench.run("--models", reference).code == 0
    cell = bench.folder("Mine")
    with pytest.raises(UsageError, match="is not executed unless you name it"):
        seqbench.load(cell)
    assert type(seqbench.load(cell, model=reference).model).__name__ == "Mine"
    with pytest.raises(UsageError, match="weights of Mine, not of markov"):
        seqbench.load(cell, model="markov")
    path.write_text(MODEL + "# changed\n")
    with pytest.raises(UsageError, match="is not what it was when it was trained"):
        seqbench.load(cell, model=reference)
