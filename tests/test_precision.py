"""Precisions: what is computed in them, what is not, and that figures of two never mix."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import seqbench
from seqbench.losses import LOSSES
from seqbench.ops import linear_cross_entropy, linear_scan
from seqbench.precision import PRECISIONS
from seqbench.protocol import Protocol
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.variants import group_variants
from seqbench.results import Definition, Record
from tests.kit import QUICK, SMALL, Bench

CPU = torch.device("cpu")
DEFINITION = Definition("data", "f" * 8, Protocol(), "lrurec", {}, {"epochs": 1}, 0, "cpu", "torch")


@pytest.fixture
def bf16() -> Any:
    with PRECISIONS["bf16"].active(CPU):
        yield


def test_operators_compute_in_single_precision_whatever_they_are_given(bf16: None) -> None:
    gates = torch.full((1, 400, 8), 0.999)
    inputs = torch.randn(1, 400, 8).bfloat16()
    found = linear_scan(gates, inputs)
    assert found.dtype == torch.float32
    assert torch.equal(found, linear_scan(gates, inputs.float()))
    states, items = torch.randn(4, 8).bfloat16(), torch.randn(30, 8)
    targets = torch.arange(4)
    exact = torch.nn.functional.cross_entropy(states.double() @ items.double().t(), targets)
    assert linear_cross_entropy(states, items, None, targets).item() == pytest.approx(exact.item(), rel=1e-5)


def test_products_outside_of_operators_are_halved_and_weights_are_cast_anew(bf16: None) -> None:
    layer = torch.nn.Linear(4, 4)
    before = layer(torch.ones(1, 4))
    assert before.dtype == torch.bfloat16
    with torch.no_grad():
        layer.weight += 1.0  # as a step of training would
    assert not torch.equal(layer(torch.ones(1, 4)), before)


def test_a_precision_ends_with_its_context() -> None:
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for name in PRECISIONS:
        with PRECISIONS[name].active(CPU):
            assert torch.backends.cuda.matmul.allow_tf32 == (name != "fp32")
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == flags
        assert not torch.is_autocast_enabled("cpu")


def test_accuracy_in_bf16_is_that_of_single_precision(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate: as accurate as fp32 on data that can be learned, far above chance, and really another precision."""
    split = seqbench.load_dataset("synthetic", home=home).split("leave-one-out")
    dtypes = []
    call = LOSSES["cross-entropy"].__call__

    def spied(self: Any, states: torch.Tensor, *rest: Any) -> torch.Tensor:
        dtypes.append(states.dtype)
        return call(self, states, *rest)

    monkeypatch.setattr(LOSSES["cross-entropy"], "__call__", spied)
    found = {}
    for precision in ("fp32", "bf16"):
        trained = seqbench.train(
            "lrurec", split, precision=precision, max_len=12, epochs=10, batch_size=16, hidden_size=32, device="cpu"
        )
        found[precision] = trained, seqbench.evaluate(trained, split)["ndcg@10"]
    assert set(dtypes) == {torch.float32}
    (exact, fp32), (halved, bf16) = found["fp32"], found["bf16"]
    assert not torch.equal(exact.item_weights(), halved.item_weights())
    assert halved.item_weights().dtype == torch.float32
    assert bf16 == pytest.approx(fp32, abs=0.03)
    assert bf16 > 0.2


def test_the_precision_names_another_cell_and_fp32_the_one_that_there_was() -> None:
    # From before there were precisions.
    assert DEFINITION.key == "8d1622b05af055b1"
    other = dataclasses.replace(DEFINITION, precision="bf16")
    assert other.key != DEFINITION.key
    assert Definition.from_dict(dataclasses.asdict(other)) == other


def test_a_report_sets_precisions_apart() -> None:
    def run(precision: str) -> StoredRun:
        definition = dataclasses.replace(DEFINITION, precision=precision)
        return StoredRun(Record(definition, "finished", "", 1.0, {}, changes={}))

    both, _ = group_variants([run("fp32"), run("bf16")], [])
    assert [variant.configuration for variant in both] == ["precision=bf16", "precision=fp32"]
    assert [variant.configuration for variant in group_variants([run("bf16")], [])[0]] == ["precision=bf16"]
    assert [variant.configuration for variant in group_variants([run("fp32")], [])[0]] == [""]


def test_a_run_records_its_precision(bench: Bench) -> None:
    done = bench.run(*SMALL, "--models", "lrurec,popularity", "--epochs", "1", "--precision", "bf16")
    assert done.code == 0, done.err
    assert bench.record("lrurec")["definition"]["precision"] == "bf16"
    assert bench.record("popularity")["definition"]["precision"] == "fp32"  # it adds up whole numbers
    planned = bench.run(*SMALL, "--models", "lrurec", "--epochs", "1", "--dry-run")
    assert "to be run" in planned.out


def test_a_precision_that_the_device_does_not_have_is_refused(bench: Bench) -> None:
    for command in (("run", "--models", "lrurec", *QUICK), ("bench", "size", "--models", "lrurec")):
        done = bench.call(*command, "--device", "cpu", "--precision", "tf32")
        assert done.code == 2
        assert "Precision tf32 is one of NVIDIA GPUs" in done.words
    assert "Did you mean bf16" in bench.call("bench", "size", "--precision", "bf1").words
