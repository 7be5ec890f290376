"""Exported models: programs that run in a fresh process without seqbench, and give what the model gives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import seqbench
from seqbench.models.base import IncrementalModel, SequenceModel
from tests.kit import Bench
from tests.models.forms import times_for

# What somebody without seqbench would write.
USE = """
import sys, torch
from safetensors.torch import load_file, save_file
assert "seqbench" not in sys.modules
folder, given = sys.argv[1], load_file(sys.argv[2])
step, scores = (torch.export.load(f"{folder}/{name}.pt2").module() for name in ("step", "scores"))
state = load_file(f"{folder}/state.safetensors")
B = len(given["items"])
state = [state[f"state.{at}"].expand(B, *state[f"state.{at}"].shape[1:]).clone() for at in range(len(state))]
times = [given[name] for name in ("events", "requests") if name in given]
for t, column in enumerate(given["items"].unbind(1)):
    states, *state = step(column, *(each[:, t] for each in times), *state)
found = {"states": states, "scores": scores(states)}
if sys.argv[4] == "encoder":
    found["encoded"] = torch.export.load(f"{folder}/encoder.pt2").module()(given["items"], given["lengths"], *times)
assert "seqbench" not in sys.modules
save_file(found, sys.argv[3])
"""


@pytest.fixture(scope="module")
def trained(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(home, tmp_path_factory.mktemp("export"))
    words = ("--set", "hidden_size=8", "--epochs", "1", "--no-latency")
    words = (*words, "--set", "hstu.positions=oldest")
    assert bench.run("--models", "lrurec,gru4rec,sasrec,hstu,popularity", *words).code == 0
    return bench


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lrurec", "gru4rec", "sasrec", "hstu"])
def test_exported_programs_run_without_seqbench(trained: Bench, name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert trained.call("export", trained.folder(name), "--output", out).code == 0
    description = json.loads((out / "export.json").read_text())
    encoder = "encoder" in description["programs"]
    assert encoder == (name != "gru4rec")
    items = torch.randint(1, 30, (4, 9))
    model = seqbench.load(trained.folder(name)).model
    times = times_for(model, items)
    named = {key: value for each in times for key, value in each._asdict().items()}
    save_file({"items": items, "lengths": torch.full((4,), 9), **named}, tmp_path / "given")
    words = [out, tmp_path / "given", tmp_path / "found", "encoder" if encoder else ""]
    subprocess.run([sys.executable, "-I", "-c", USE, *map(str, words)], check=True, timeout=300, cwd=tmp_path)
    found = load_file(tmp_path / "found")
    assert isinstance(model, SequenceModel)
    with torch.no_grad():
        states = model.last_states(items, torch.full((4,), 9), *times)
        torch.testing.assert_close(found["states"], states, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["scores"], model.score_states(states), rtol=1e-5, atol=1e-5)
    if encoder:
        torch.testing.assert_close(found["encoded"], states, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_onnx_models_give_what_the_model_gives(trained: Bench, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    assert trained.call("export", trained.folder("gru4rec"), "--format", "onnx", "--output", out).code == 0
    model = seqbench.load(trained.folder("gru4rec")).model
    assert isinstance(model, IncrementalModel)
    session = runtime.InferenceSession(out / "step.onnx")
    names = [each.name for each in session.get_inputs()]
    state, items = model.initial_state(7), torch.randint(1, 30, (7,))
    with torch.no_grad():
        for _ in range(3):
            given = dict(zip(names, (each.numpy() for each in (items, *state)), strict=True))
            states, state = model.step(items, state)
            found, *_ = session.run(None, given)
            torch.testing.assert_close(torch.from_numpy(found), states, rtol=1e-5, atol=1e-5)


def test_weights_are_exported_with_their_ids_and_only_into_a_folder_of_their_own(
    trained: Bench, tmp_path: Path
) -> None:
    run, out = trained.folder("sasrec"), tmp_path / "out"
    for _ in range(2):
        assert trained.call("export", run, "--format", "safetensors", "--output", out).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "items.parquet", "weights.safetensors"]
    assert load_file(out / "weights.safetensors").keys() == load_file(run / "weights.safetensors").keys()
    for words in (("--output", tmp_path), ("--output", out, "--format", "onyx")):
        assert trained.call("export", run, *words).code == 2
    assert trained.call("export", trained.folder("popularity"), "--output", tmp_path / "counts").code == 2
