"""Prove and measure seqbench on a machine, in one command: `make gpu`, or `python tools/gpu.py --device cuda`.

It needs Python, torch, what pyproject.toml names and this tree: no network, no git, no installation. Where packages
cannot be installed, their wheels unpacked into a folder on PYTHONPATH will do.

Everything is written to one folder: what each step printed, its JSON, and summary.json. A step that has succeeded is
not repeated, so that an interrupted run goes on where it was. Steps are in order of value; what does not fit into the
time is left out, and the summary says so.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = ("/usr/local/cuda/bin/compute-sanitizer", "/opt/cuda/bin/compute-sanitizer")
SUMMARY = "summary.json"
SUCCESS = "succeeded"


@dataclass(frozen=True)
class Step:
    """One command, and how many seconds it may take."""

    name: str
    command: tuple[str, ...]
    seconds: float


@dataclass
class Outcome:
    """How a step ended."""

    status: str  # SUCCESS, or "failed", "timed out", "absent", "left out"
    seconds: float
    detail: str = ""


def steps(device: str, output: Path) -> list[Step]:
    """Return what is run on a device, by its kind: "cuda" in full, "cpu" as a rehearsal at small sizes."""
    gpu = device != "cpu"
    seqbench = (sys.executable, "-m", "seqbench")
    tests = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    lengths = "64,256,1024,4096,16384" if gpu else "16,32"
    models = () if gpu else ("--models", "lrurec,sasrec")
    small = () if gpu else ("--items", "500", "--batches", "1,2")
    shapes = () if gpu else ("--operators", "linear_scan", "--shapes", "2x50x16")

    def bench(quantity: str, seconds: float, *words: str) -> Step:
        command = (*seqbench, "bench", quantity, "--device", device, "--lengths", lengths, *models, *small, *words)
        return Step(f"bench-{quantity}", (*command, "--json", str(output / f"bench-{quantity}.json")), seconds)

    found = [
        Step("environment", (*seqbench, "env"), 60),
        Step("tests", (*tests, "tests/ops/test_cuda.py" if gpu else "tests/ops/test_linear_attention.py"), 150),
        Step(
            "kernels",
            (
                *(*seqbench, "kernels", "--device", device, "--seconds", "0.1" if gpu else "0", *shapes),
                *("--json", str(output / "kernels.json")),
            ),
            120,
        ),
        bench("latency", 100, "--baseline", "sasrec", "--seconds", "0.05" if gpu else "0"),
        bench("memory", 60),
        bench("training", 60, "--baseline", "sasrec", "--seconds", "0.05" if gpu else "0"),
        Step("data", (*seqbench, "prepare", "synthetic", "--users", "500" if gpu else "60", "--force"), 60),
        Step(
            "run",
            (
                *(*seqbench, "run", "--device", device, "--datasets", "synthetic", "--epochs", "2", "--no-latency"),
                *("--max-len", "50", "--results", str(output / "results")),
                *models,
                *(() if gpu else ("--executor", "inline")),
            ),
            150,
        ),
        Step("report", (*seqbench, "report", "--json", "--results", str(output / "results")), 60),
        bench("energy", 60, "--batches", "32"),
        bench("throughput", 60, *(("--batches", "32") if gpu else ("--models", "gru4rec", "--lengths", "16"))),
        bench("size", 60),
    ]
    if gpu:
        sanitizer = shutil.which("compute-sanitizer") or next(filter(os.path.exists, SANITIZERS), "compute-sanitizer")
        small = (
            *tests,
            "-x",
            "-k",
            "linear_scan or rg_lru or selective_scan or cross_entropy",
            "tests/ops/test_cuda.py",
        )
        for tool in ("memcheck", "racecheck"):
            command = (sanitizer, "--tool", tool, "--error-exitcode", "9", *small)
            found.insert(3, Step(tool, command, 60))
    return found


def carry_out(todo: Sequence[Step], output: Path, budget: float) -> dict[str, Outcome]:
    """Run steps one after the other, and store how they ended after each.

    Args:
        budget: seconds for all; a step gets what is left of it at most.
    """
    output.mkdir(parents=True, exist_ok=True)
    outcomes = _earlier(output)
    end = time.monotonic() + budget
    for step in todo:
        if step.name in outcomes and outcomes[step.name].status == SUCCESS:
            print(f"{step.name}: succeeded before")
            continue
        left = end - time.monotonic()
        outcomes[step.name] = _run(step, output, left) if left > 1 else Outcome("left out", 0.0, "no time was left")
        print(f"{step.name}: {outcomes[step.name].status}, {outcomes[step.name].seconds:.1f} s", flush=True)
        stored = {name: asdict(outcome) for name, outcome in outcomes.items()}
        (output / SUMMARY).write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return outcomes


def _run(step: Step, output: Path, left: float) -> Outcome:
    began = time.monotonic()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "SEQBENCH_HOME": str(output / "home"), "COLUMNS": "160"}
    with (output / f"{step.name}.log").open("wb") as log:
        try:
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return Outcome("absent", 0.0, str(error))
        try:
            code = process.wait(min(step.seconds, left))
        except subprocess.TimeoutExpired:
            return Outcome("timed out", time.monotonic() - began, f"after {min(step.seconds, left):.0f} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return Outcome(
        SUCCESS if code == 0 else "failed", time.monotonic() - began, "" if code == 0 else f"exit code {code}"
    )


def missing_packages() -> list[str]:
    """Return the requirements of pyproject.toml that are not here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"]]
    found = []
    for name in [*names, "pytest"]:
        try:
            version(name)
        except PackageNotFoundError:
            found.append(name)
    return found


def _earlier(output: Path) -> dict[str, Outcome]:
    try:
        stored = json.loads((output / SUMMARY).read_text(encoding="utf-8"))
        return {name: Outcome(**fields) for name, fields in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def main() -> int:
    """Run all steps; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="folder for everything")
    parser.add_argument("--budget", type=float, default=520, help="seconds for all steps")
    words = parser.parse_args()
    if missing := missing_packages():
        print(f"Missing: {' '.join(missing)}. Install them, or unpack their wheels into a folder on PYTHONPATH.")
        return 2
    output = words.output.resolve()
    try:
        outcomes = carry_out(steps(words.device, output), output, words.budget)
    except KeyboardInterrupt:
        print("Interrupted. Run it again to go on.")
        return 130
    print(f"Everything is in {output}.")
    return int(any(outcome.status == "failed" for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
