"""The array job of examples/slurm, with stand-ins for what Slurm and seqbench would do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit import PATIENCE

SCRIPT = Path(__file__).parent.parent / "examples" / "slurm" / "run.sh"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no bash")


def stand_in(folder: Path, name: str, body: str) -> None:
    """A command that writes its name and words to a file, then does something."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{folder}/said"\n{body}\n')
    path.chmod(0o755)


def submit(folder: Path, task: int, *words: str) -> "subprocess.Popen[bytes]":
    """What `sbatch --array=3-5` does for one of its tasks."""
    variables = {
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_MIN": "3",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_CPUS_PER_TASK": "4",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    return subprocess.Popen(["bash", SCRIPT, *words], env={**os.environ, **variables})


def test_every_task_runs_its_part(tmp_path: Path) -> None:
    stand_in(tmp_path, "seqbench", 'echo "$OMP_NUM_THREADS" >> "$(dirname "$0")/threads"; exit 1')
    for task in (3, 5):
        assert submit(tmp_path, task, "--models", "lrurec,sasrec", "--seeds", "0-4").wait(PATIENCE) == 1
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [f"seqbench run --shard {part}/3 --models lrurec,sasrec --seeds 0-4" for part in (1, 3)]
    assert (tmp_path / "threads").read_text().split() == ["4", "4"]


def test_a_task_whose_time_is_over_ends_and_is_requeued(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stand_in(tmp_path, "seqbench", f'trap "exit 143" TERM; touch "{ready}"; while true; do sleep 0.05; done')
    stand_in(tmp_path, "scontrol", "")
    task = submit(tmp_path, 4)
    for _ in range(200):
        if ready.exists():
            break
        time.sleep(0.05)
    task.send_signal(signal.SIGTERM)
    assert task.wait(PATIENCE) == 143
    assert (tmp_path / "said").read_text().splitlines()[-1] == "scontrol requeue 77_4"
