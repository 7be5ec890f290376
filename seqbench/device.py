"""Devices: everything that differs between a CPU and a GPU and is not arithmetic.

A kind of device ("cpu", "cuda") is one class and one line of `DEVICES`: which of its devices there are, what they are
called, how to wait for them, how to time work on them, how to measure their memory and energy.
"""

import contextlib
import ctypes
import gc
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import psutil
import torch

from seqbench.environment import cpu_name
from seqbench.errors import UsageError
from seqbench.registry import Registry

T = TypeVar("T")
Call = Callable[[], object]
Clock = Callable[[], float]
PeakMemory = Callable[[], int]  # bytes
Meter = Callable[[], float]  # joules since it was made

# More than any second-level cache of a GPU holds.
CACHE_BYTES = 256 << 20

RAPL = Path("/sys/class/powercap")

# Bits of nvmlClocksThrottleReasons in nvml.h; that a GPU is idle, or that its clock was set, is no disturbance.
THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "temperature (software)",
    0x40: "temperature (hardware)",
    0x80: "power brake",
}


class Facts(TypedDict):
    """What a record keeps of a device."""

    device_name: str
    device_memory_bytes: int | None  # None where the device has no memory of its own
    tf32_matmul: bool | None  # single precision computed with fewer bits: other numbers, and other times
    tf32_cudnn: bool | None


class ProcessMemory(NamedTuple):
    """Bytes of a device's memory that this process holds; None where nobody can say."""

    reserved: int | None  # taken by torch's allocator
    process: int | None  # all of it: with contexts and libraries on a GPU, with code and data on a CPU


class DeviceKind(ABC):
    """One kind of device, by torch's name for it."""

    name: str
    block_bytes: int  # what operators in Python gather at once: caches of a CPU, enough to fill a GPU
    energy_period: float  # seconds between two updates of the energy counter, about: what is shorter is not told

    @abstractmethod
    def available(self) -> list[str]:
        """Return the names of the devices of this kind that this process can use."""

    @abstractmethod
    def facts(self, device: torch.device) -> Facts:
        """Return what identifies the device in a record."""

    @abstractmethod
    def synchronize(self, device: torch.device) -> None:
        """Wait until everything that was submitted to the device is done."""

    @abstractmethod
    def peak_memory(self, device: torch.device) -> PeakMemory:
        """Return a function that gives the peak of memory, in bytes, since this call."""

    @abstractmethod
    def seconds(self, call: Call, calls: int, device: torch.device, *, evict: bool, clock: Clock) -> list[float]:
        """Time each of several calls, in seconds; see `seqbench.timing.sample`."""

    @abstractmethod
    def process_memory(self, device: torch.device) -> ProcessMemory:
        """Return what this process holds of the device's memory."""

    @abstractmethod
    def free_memory(self, device: torch.device) -> int:
        """Return the bytes of the device's memory that this process could still take."""

    @abstractmethod
    def energy(self, device: torch.device) -> Meter | None:
        """Return a function that gives the joules that the device has used since this call, whoever used them.

        None if there is no counter that can be read.
        """

    def release(self, device: torch.device) -> None:
        """Give free memory back to the system, so that the next peak is measured from a clean mark."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
        if trim is not None:
            trim(0)

    def disturbances(self, device: torch.device) -> list[str]:
        """Return what disturbs the device itself now, in words."""
        return []


class Cpu(DeviceKind):
    """The processor, and the memory of this process."""

    name = "cpu"
    block_bytes = 2 << 20
    energy_period = 0.001

    def available(self) -> list[str]:
        return ["cpu"]

    def facts(self, device: torch.device) -> Facts:
        return {"device_name": cpu_name(), "device_memory_bytes": None, "tf32_matmul": None, "tf32_cudnn": None}

    def synchronize(self, device: torch.device) -> None:
        pass

    def peak_memory(self, device: torch.device) -> PeakMemory:
        """Return a function that gives resident memory above what is held now.

        There is one peak per process, which this resets. Where the system has no way to reset it (only Linux has), what
        the process held before takes part.
        """
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM; see proc(5)
        before = resident_memory()
        return lambda: max(0, peak_resident_memory() - before)

    def free_memory(self, device: torch.device) -> int:
        return int(psutil.virtual_memory().available)

    def process_memory(self, device: torch.device) -> ProcessMemory:
        """Return the peak of resident memory; the system's allocator reserves nothing that could be told apart."""
        return ProcessMemory(None, peak_resident_memory())

    def energy(self, device: torch.device) -> Meter | None:
        """Return a meter of all processor packages, where RAPL's counters can be read (by root, on most systems)."""
        packages = sorted(RAPL.glob("intel-rapl:?"))
        try:
            ranges = [_microjoules(package / "max_energy_range_uj") for package in packages]
            before = [_microjoules(package / "energy_uj") for package in packages]
        except (OSError, ValueError):
            return None
        if not packages:
            return None

        def used() -> float:
            after = [_microjoules(package / "energy_uj") for package in packages]
            # A counter starts again at 0 behind the end of its range.
            return sum((b - a) % (most + 1) for a, b, most in zip(before, after, ranges, strict=True)) / 1e6

        return used

    def seconds(self, call: Call, calls: int, device: torch.device, *, evict: bool, clock: Clock) -> list[float]:
        times = [clock()]
        for _ in range(calls):
            call()
            times.append(clock())
        return [ended - started for started, ended in pairwise(times)]


class Cuda(DeviceKind):
    """NVIDIA GPUs. Times are those of events on the current stream; memory is that of torch's allocator."""

    name = "cuda"
    block_bytes = 256 << 20
    energy_period = 0.1

    def available(self) -> list[str]:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]

    def facts(self, device: torch.device) -> Facts:
        properties = torch.cuda.get_device_properties(device)
        return {
            "device_name": properties.name,
            "device_memory_bytes": properties.total_memory,
            "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        }

    def synchronize(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)

    def peak_memory(self, device: torch.device) -> PeakMemory:
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)

    def seconds(self, call: Call, calls: int, device: torch.device, *, evict: bool, clock: Clock) -> list[float]:
        cache = torch.empty(CACHE_BYTES, dtype=torch.int8, device=device) if evict else None
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
        for started, ended in pairs:
            if cache is not None:
                cache.zero_()
            started.record()
            call()
            ended.record()
        torch.cuda.synchronize(device)
        return [started.elapsed_time(ended) / 1000 for started, ended in pairs]

    def free_memory(self, device: torch.device) -> int:
        return torch.cuda.mem_get_info(device)[0]

    def process_memory(self, device: torch.device) -> ProcessMemory:
        """Return what torch's allocator reserves, and what the driver says that this process holds."""

        def held(handle: Any) -> int | None:
            found = _processes(handle)
            # In a container this process has another number there: if it is alone, it is the one.
            own = [each for each in found if each.pid == os.getpid()] or (found if len(found) == 1 else [])
            return own[0].usedGpuMemory if own else None

        return ProcessMemory(torch.cuda.memory_reserved(device), _ask(device, held))

    def energy(self, device: torch.device) -> Meter | None:
        import pynvml

        def counter() -> float | None:
            return _ask(device, lambda handle: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000)

        before = counter()
        return None if before is None else lambda: (counter() or before) - before

    def release(self, device: torch.device) -> None:
        super().release(device)
        torch.cuda.empty_cache()

    def disturbances(self, device: torch.device) -> list[str]:
        """Return other processes on the GPU, and why its clock is lower than it could be."""
        import pynvml

        found: list[str] = []
        # In a container this process has another number there: one of them is this one whatever its number.
        others = (_ask(device, lambda handle: len(_processes(handle))) or 1) - 1
        if others:
            found.append(f"{others} other process{'es' if others > 1 else ''} on the GPU")
        reasons = _ask(device, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        return found + [f"the GPU's clock was lowered: {words}" for bit, words in THROTTLING.items() if reasons & bit]


def _microjoules(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _ask(device: torch.device, question: Callable[[Any], T]) -> T | None:
    """Return the answer to a question about NVML's handle of a GPU; None where NVML is absent or has no answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            return question(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _processes(handle: Any) -> list[Any]:
    import pynvml

    return list(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))


DEVICES: Registry[DeviceKind] = Registry("Device", {"cpu": Cpu(), "cuda": Cuda()}, "seqbench env")


def kind(device: torch.device) -> DeviceKind:
    """Return the kind of a device."""
    return DEVICES[device.type]


def available() -> list[str]:
    """Return the names of all devices that this process can use, the CPU first."""
    return [name for _, each in DEVICES.items() for name in each.available()]


def resolve(text: str) -> torch.device:
    """Return the device that a word such as "auto", "cpu", "cuda" or "cuda:1" means here.

    Raises:
        UsageError: this machine has no such device.
    """
    names = available()
    if text == "auto":
        return torch.device(names[1] if len(names) > 1 else "cpu")
    chosen = next((name for name in names if name in (text, f"{text}:0")), None)
    if chosen is None:
        raise UsageError(
            f"Device '{text}' is not available; this machine has {', '.join(names)}.", hint="See `seqbench env`."
        )
    return torch.device(chosen)


def resolve_all(text: str) -> list[torch.device]:
    """Return the devices that a word means: of a kind without a number ("auto", "cuda") all that there are.

    Raises:
        UsageError: this machine has no such device.
    """
    first = resolve(text)
    if ":" in text:
        return [first]
    return [torch.device(name) for name in kind(first).available()]


def synchronize(device: torch.device) -> None:
    """Wait until everything that was submitted to the device is done."""
    kind(device).synchronize(device)


def now(device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the clock's seconds once the device has done all that was submitted to it."""
    synchronize(device)
    return clock()


def resident_memory() -> int:
    """Return the bytes of physical memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def facts(device: torch.device) -> Facts:
    """Return what identifies the device in a record."""
    return kind(device).facts(device)


def title(device: torch.device) -> str:
    """Return the device's name for people, with the threads that a CPU works with."""
    name = facts(device)["device_name"]
    if device.type != "cpu":
        return name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
