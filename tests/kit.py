"""What the tests of whole commands share: a small prepared data set, and ways to run `seqbench`.

In this process (`call`) the heavy imports are there already, and the cells are run here, too. What is about the
processes themselves needs workers that are some (`processes=True`), signals the whole command (`start`).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import seqbench
from seqbench import console
from seqbench.__main__ import main
from seqbench.signals import ENDING

ROOT = Path(seqbench.__file__).resolve().parent.parent

# 50 users, 40 items, 12 items per user: an epoch takes a tenth of a second.
PATIENCE = 300  # seconds after which a test takes something for stuck, on a machine with much else to do

# What a finished cell holds.
FILES = ["items.parquet", "ranks.parquet", "record.json", "samples.parquet", "top.parquet", "weights.safetensors"]

QUICK = ("--lengths", "16", "--batches", "1", "--latency-seconds", "0")
TINY = ("--max-len", "20", "--device", "cpu", "--backend", "torch", *QUICK)
SMALL = (
    *("--set", "lrurec.hidden_size=8"),
    *("--set", "lrurec.layers=1"),
    *("--set", "lrurec.batch_size=16"),
    *("--set", "lrurec.patience=100"),
)


@dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """stderr in one line, however it was wrapped."""
        return " ".join(self.err.split())


class Bench:
    """`seqbench` with its own home and results folder."""

    def __init__(self, home: Path, results: Path, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.home = home
        self.results = results
        self.capsys = capsys

    def call(self, *words: object) -> Outcome:
        """Run a command in this process, as `seqbench` would."""
        if self.capsys:
            self.capsys.readouterr()
        code: Any = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["seqbench", *map(str, words)])
            for name, value in self.environment().items():
                patch.setenv(name, value)
            for each in (console.out, console.err):  # made when seqbench was imported, perhaps under other variables
                patch.setattr(each, "width", int(self.environment()["COLUMNS"]))
            try:
                main()
            except SystemExit as end:
                code = end.code
            finally:
                console.quiet(False)
        out, err = self.capsys.readouterr() if self.capsys else ("", "")
        return Outcome(code or 0, out, err)

    def run(self, *words: object, processes: bool = False) -> Outcome:
        """`seqbench run` on the small data set in this process, its cells here as well, or in worker processes."""
        return self.call("run", *TINY, "--executor", "process" if processes else "inline", *words)

    def start(self, *words: object) -> "Running":
        """Start a command in a process group of its own."""
        return Running([sys.executable, "-m", "seqbench", *map(str, words)], self.environment())

    def environment(self) -> dict[str, str]:
        """Variables that keep a command small, offline and away from the user's own files."""
        return {
            "SEQBENCH_HOME": str(self.home),
            "SEQBENCH_RESULTS": str(self.results),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
        }

    def folder(self, model: str, seed: int = 0) -> Path:
        """The only cell of a model and seed."""
        (found,) = [
            path.parent
            for path in self.results.glob(f"*/{model}/*/record.json")
            if json.loads(path.read_text())["definition"]["seed"] == seed
        ]
        return found

    def record(self, model: str, seed: int = 0) -> dict[str, Any]:
        """Its record as plain JSON."""
        return json.loads((self.folder(model, seed) / "record.json").read_text())

    def files(self) -> list[str]:
        """Names of all files of all cells that hold something."""
        return sorted(path.name for path in self.results.rglob("*") if path.is_file() and path.stat().st_size)


def _listen_to_signals() -> None:
    """Undo what `nohup` and background jobs of scripts ignore: these tests send signals."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


class Running:
    """A command that runs in its own process group."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_listen_to_signals,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def saw(self, words: str, timeout: float = PATIENCE) -> bool:
        """Wait until a line of stderr has these words; whether that happened before the command ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or any(words in line for line in self.lines), timeout)
            return any(words in line for line in self.lines)

    def worker(self) -> psutil.Process:
        """The process that works for the command, as soon as there is one."""
        parent = psutil.Process(self.process.pid)
        for _ in poll(30):
            if found := parent.children():
                return found[0]
        raise AssertionError("no worker was started")

    def children(self) -> list[psutil.Process]:
        """The processes that the command has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait(self, timeout: float = PATIENCE) -> Outcome:
        """The end of it."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return Outcome(code, "", "".join(self.lines))


def poll(seconds: float) -> Iterator[None]:
    """Try again every few milliseconds, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.01)


def all_gone(processes: Sequence[psutil.Process], seconds: float = 5) -> bool:
    """Whether all of them end within a few seconds."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def on_small_disk(mount: Path, size: str) -> list[str]:
    """What to put before a command so that it finds a file system of that size at `mount`; skips where none can be."""
    mount.mkdir()
    inside = f'mount -t tmpfs -o size={size} tmpfs "{mount}" && "$@"'
    wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
    try:
        probe = subprocess.run([*wrapper, "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if probe.returncode != 0:
        pytest.skip("user namespaces are not allowed here")
    return wrapper
