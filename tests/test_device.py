"""Devices and their clocks, and peak memory."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seqbench import device, timing
from seqbench.errors import UsageError
from tests.kit import PATIENCE

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
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=PATIENCE, check=True)
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
    def write(package: int, joules: float) -> None:
        folder = tmp_path / f"intel-rapl:{package}"
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
        (folder / "max_energy_range_uj").write_text(f"{10**8 - 1}\n")

    monkeypatch.setattr(device, "RAPL", tmp_path)
    assert device.kind(CPU).energy(CPU) is None
    write(0, 3)
    write(1, 98)
    meter = device.kind(CPU).energy(CPU)
    assert meter is not None
    assert meter() == 0.0
    write(0, 5)
    write(1, 1)  # it has started again
    assert meter() == pytest.approx(2.0 + 3.0)


class Nvml:
    """What NVML says of a GPU, as pynvml passes it on."""

    class NVMLError(Exception):
        pass

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, present: bool = True) -> None:
        self.present, self.millijoules, self.reasons = present, 5_000, 0
        self.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=300 << 20)]
        self.open = 0
        monkeypatch.setitem(sys.modules, "pynvml", self)  # type: ignore[arg-type]
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 200 << 20)

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.present:
            raise self.NVMLError("no driver")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-abc"
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:  # noqa: N802
        return self.processes

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return self.millijoules

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return self.reasons


GPU = torch.device("cuda")


def test_a_gpu_tells_memory_energy_and_what_disturbs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(monkeypatch)
    gpu = device.kind(GPU)
    assert gpu.process_memory(GPU) == (200 << 20, 300 << 20)
    assert gpu.disturbances(GPU) == []
    meter = gpu.energy(GPU)
    nvml.millijoules += 2_500
    assert meter is not None
    assert meter() == 2.5
    nvml.processes.append(SimpleNamespace(pid=1, usedGpuMemory=None))
    nvml.reasons = 0x01 | 0x04 | 0x40  # idle, which is none, a power cap, and heat
    assert gpu.process_memory(GPU).process == 300 << 20
    assert gpu.disturbances(GPU) == [
        "1 other process on the GPU",
        "the GPU's clock was lowered: power cap",
        "the GPU's clock was lowered: temperature (hardware)",
    ]
    assert nvml.open == 0


def test_in_a_container_the_only_process_on_a_gpu_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(monkeypatch)
    nvml.processes[0].pid = 4321
    assert device.kind(GPU).process_memory(GPU).process == 300 << 20
    nvml.processes.append(SimpleNamespace(pid=4322, usedGpuMemory=1))
    assert device.kind(GPU).process_memory(GPU).process is None  # nobody can say which


def test_without_nvml_a_gpu_has_no_such_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    Nvml(monkeypatch, present=False)
    gpu = device.kind(GPU)
    assert gpu.process_memory(GPU) == (200 << 20, None)
    assert gpu.energy(GPU) is None
    assert gpu.disturbances(GPU) == []
