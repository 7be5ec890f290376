"""Summaries of the samples, and the JSON that has all of them."""

import math
from datetime import UTC, datetime
from typing import Any

import torch

from seqbench.device import title
from seqbench.environment import describe
from seqbench.show import numbers
from seqbench.speed.benchmark import Benchmark, Case, Entry
from seqbench.speed.peers import PEERS
from seqbench.speed.request import Request

SCHEMA_VERSION = 1
QUANTILES = {"best": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "worst": 1.0}
SPREAD = 0.3  # a ratio whose quartiles lie further apart, as a share of its median, is called unsteady


def quantiles(values: list[float]) -> dict[str, float] | None:
    """Return QUANTILES of the values; None if there are none."""
    return numbers.quantiles(values, QUANTILES) or None


def unsteady(entry: Entry) -> bool:
    """Tell whether the middle half of an entry's ratios is so wide that its median says little."""
    spread = quantiles(entry.ratios)
    return spread is not None and spread["p75"] - spread["p25"] > SPREAD * spread["median"]


def machine(request: Request) -> str:
    """Describe in a line what the figures were measured on."""
    return f"{title(request.device)}; torch {torch.__version__}, {str(request.dtype).removeprefix('torch.')}"


def document(benchmark: Benchmark) -> dict[str, Any]:
    """Return everything as plain values, for JSON."""
    request = benchmark.request
    return {
        "schema_version": SCHEMA_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe(str(request.device)),
        "busy_cores": benchmark.busy_cores,
        "device": str(request.device),
        "dtype": str(request.dtype).removeprefix("torch."),
        "seconds": request.seconds,
        "peers": {name: PEERS[name].version for name in request.competitors if name in PEERS},
        "absent": [vars(absent) for absent in benchmark.absent],
        "cases": [_case(case) for case in benchmark.cases],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "operator": case.workload.name,
        "axes": case.workload.axes,
        "shape": list(case.shape),
        "pass": case.passes,
        "bytes": case.bytes,
        "flops": case.flops,
        "baseline": case.workload.baseline,
        "entries": [_entry(entry) for entry in case.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    found = entry.deviation
    return {
        "name": entry.name,
        "kind": entry.kind,
        "status": entry.status,
        "reason": entry.reason,
        "deviation": found
        and {
            "tensor": found.tensor,
            "error": found.error if math.isfinite(found.error) else str(found.error),
            "tolerance": found.tolerance,
        },
        "rounds": len(entry.seconds),
        "seconds": quantiles(entry.seconds),
        "ratio": quantiles(entry.ratios),
        "speedup": quantiles(entry.speedups),
    }
