"""Devices and their clocks, and peak memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqbench import device, timing
from seqbench.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("text", "expected"), [("auto", "cpu"), ("cpu", "cpu")])
def test_words_for_the_processor(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device.resolve(text) == torch.device(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_words_for_devices_where_there_are_gpus(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.resolve(text) == torch.device(expected)


@pytest.mark.parametrize("text", ["cuda", "cuda:0", "mps", "", "CPU", "cpu:1"])
def test_a_device_that_is_not_here_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=f"Device '{text}' is not available; this machine has cpu"):
        device.resolve(text)


@pytest.mark.parametrize("queue", [False, True])
def test_each_call_is_timed_by_itself(queue: bool) -> None:
    now, durations = 0.0, iter([3.0, 1.0, 2.0])

    def call() -> None:
        nonlocal now
        now += next(durations)

    assert timing.sample(call, CPU, calls=3, queue=queue, clock=lambda: now) == [3.0, 1.0, 2.0]


PEAK = """
import sys
from pathlib import Path
import torch
from seqbench.device import kind
if sys.platform == 'linux':
    torch.ones(400 * 2**20 // 4)  # a peak from before
cpu = torch.device("cpu")
peak = kind(cpu).peak_memory(cpu)
before = peak()
held = torch.ones(200 * 2**20 // 4)
during = peak()
del held
print(before, during, peak())
"""


def test_peak_memory_is_what_was_held_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=60, check=True)
    before, during, after = (int(word) / 2**20 for word in done.stdout.split())
    assert before < 100
    assert 199 <= during - before < 230  # Linux counts pages by processor, and adds them up now and then
    assert after > during - 1  # a peak stays


def test_the_memory_of_this_process_is_told() -> None:
    held = device.kind(CPU).process_memory(CPU)
    assert held.reserved is None
    assert held.process is not None
    assert held.process >= device.resident_memory() // 2


def test_energy_is_that_of_all_packages_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "RAPL", tmp_path)
    assert device.kind(CPU).energy(CPU) is None
    for package, joules in ((0, 3), (1, 4)):
        (tmp_path / f"intel-rapl:{package}").mkdir()
        (tmp_path / f"intel-rapl:{package}" / "energy_uj").write_text(f"{joules * 10**6}\n")
    assert device.kind(CPU).energy(CPU) == 7.0
