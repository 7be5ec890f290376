"""Everything about this machine and installation that could change a number."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

import seqbench

if TYPE_CHECKING:
    from seqbench.results.records import Environment

PACKAGES = ("torch", "numpy", "pyarrow", "safetensors", "typer", "rich", "nvidia-ml-py")


def describe(device: str = "cpu") -> "Environment":
    """Return the record's `environment` section; imports torch.

    Args:
        device: what the cell runs on, such as "cpu" or "cuda:0".
    """
    import torch

    from seqbench.device import facts

    device_facts = facts(torch.device(device))
    return {
        "machine": f"{platform.machine()}, {cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "device_name": device_facts["device_name"],
        "device_memory_bytes": device_facts["device_memory_bytes"],
        "tf32_matmul": device_facts["tf32_matmul"],
        "tf32_cudnn": device_facts["tf32_cudnn"],
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "cuda": torch.version.cuda,
        "driver": gpu_driver(),
        "seqbench": seqbench.__version__,
        "git_commit": git_commit(),
    }


def packages() -> dict[str, str]:
    """Return installed versions of what results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's marketing name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu_driver() -> str | None:
    """Return the version of the NVIDIA driver, or None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def git_commit() -> str | None:
    """Return the commit of the checkout that seqbench runs from, with "+" if files differ; None if installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
