"""The command that proves everything on a GPU: steps that fail, hang or are absent do not stop the others."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def python(tool: ModuleType, name: str, code: str, seconds: float = 30) -> object:
    return tool.Step(name, (sys.executable, "-c", code), seconds)


def test_every_step_has_an_outcome_whatever_becomes_of_the_others(tool: ModuleType, tmp_path: Path) -> None:
    todo = [
        python(tool, "bad", "import sys; print('why'); sys.exit(3)"),
        python(tool, "slow", "import time; time.sleep(60)", seconds=0.3),
        tool.Step("missing", ("/nonexistent/program",), 5),
        python(tool, "good", "print('fine')"),
    ]
    outcomes = tool.carry_out(todo, tmp_path, 60)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "bad": "failed",
        "slow": "timed out",
        "missing": "absent",
        "good": "succeeded",
    }
    assert (tmp_path / "bad.log").read_text() == "why\n"
    assert json.loads((tmp_path / "summary.json").read_text())["bad"]["detail"] == "exit code 3"


def test_only_what_has_not_succeeded_is_repeated(tool: ModuleType, tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    todo = [python(tool, "good", count), python(tool, "bad", count + "; raise SystemExit(1)")]
    for _ in range(2):
        tool.carry_out(todo, tmp_path, 60)
    assert (tmp_path / "count").read_text() == "xxx"


def test_what_does_not_fit_into_the_time_is_left_out(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.carry_out([python(tool, "good", "")], tmp_path, 0)["good"].status == "left out"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_steps_fit_the_command_line(tool: ModuleType, device: str, tmp_path: Path) -> None:
    from typer.main import get_command

    from seqbench.cli import app

    root = get_command(app)
    found = tool.steps(device, tmp_path)
    assert len({step.name for step in found}) == len(found)
    for step in found:
        if step.command[1:3] == ("-m", "seqbench"):
            name, *words = step.command[3:]
            root.commands[name].make_context(name, words, resilient_parsing=False)  # type: ignore[attr-defined]
        elif "pytest" in step.command:
            assert (Path(__file__).parents[2] / step.command[-1]).exists()
