"""The table of `seqbench env`."""

import platform
from pathlib import Path

from rich.table import Table

import seqbench
from seqbench import environment
from seqbench.ops.backends import BACKENDS, resolve
from seqbench.show.tables import facts


def environment_table(home: Path, results: Path) -> Table:
    """Show versions, machine, folders and backends of the operators."""
    import torch

    commit = environment.git_commit()
    rows = [("seqbench", seqbench.__version__ + (f" (commit {commit})" if commit else ""))]
    rows.append(("Python", f"{platform.python_version()} on {platform.platform()}"))
    rows += environment.packages().items()
    rows.append(("CPU", f"{environment.cpu_name()}, {environment.cores()} cores, {torch.get_num_threads()} threads"))
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows.append(("GPU", ", ".join(gpus) or f"none that torch {torch.__version__} can use"))
    rows.append(("NVIDIA driver", environment.gpu_driver() or "none"))
    rows.append(("home", str(home)))
    rows.append(("results", str(results.resolve())))
    devices = ["cpu", *(["cuda"] if gpus else [])]
    for _, backend in BACKENDS.items():
        reasons = {device: backend.unavailable("linear_scan", device) for device in devices}
        words = [f"{device}: {reason or 'available'}" for device, reason in reasons.items()]
        rows.append((f"backend {backend.name}", f"{backend.summary}; {', '.join(words)}"))
    for device in devices:
        rows.append((f"auto on {device}", resolve("linear_scan", "auto", device).name))
    return facts(*rows)
