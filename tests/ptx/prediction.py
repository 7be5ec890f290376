"""Predict what share of an H100's memory bandwidth the scans reach, from the compiled kernels and the model of cutting.

    python -m tests.ptx.prediction

Nothing here is measured. The bytes of the share are those of a single pass; what the chunked form reads twice counts as
time. `seqbench kernels --device cuda` measures the same on a GPU.
"""

from typing import Any

import torch
from torch import Tensor

from seqbench.ops.cuda import cutting, linear_scan, rg_lru, selective_scan
from seqbench.ops.cuda import launch as gpu
from tests.ptx import machine_code

PROCESSORS = 132
CLOCK = 1.98e9
BANDWIDTH = 3.0e12
SHAPES = ((2048, 200, 128), (8, 8192, 1536), (32, 1024, 128), (1, 16384, 128))
STATES = 16
DIRECTIONS = ("forward", "backward")


def resident(source: str, kernel: str, element: str, device: torch.device, block: int) -> int:
    """Stand for seqbench.ops.cuda.launch.resident, from the machine code."""
    return machine_code.read(source, element)[kernel].resident_warps(block)


def scan(source: str, direction: str, like: Tensor) -> tuple[float, str]:
    """Return predicted seconds and the number of chunks of a scan with a thread per channel."""
    module: Any = linear_scan if source == "linear_scan" else rg_lru
    constant = (False,) if source == "linear_scan" else ()
    whole, reduced = (
        (module.WORK[name, False] if constant else module.WORK[name]).of(
            like.dtype, module._resident(name, like.dtype, like.device)
        )
        for name in (direction, f"{direction}_reduce")
    )
    carried = cutting.carrying(like.dtype, module._resident(f"{direction}_carry", like.dtype, like.device))
    warps = like.shape[0] * like.shape[2] // cutting.WARP
    cut = module._cut(direction, *like.shape, like.dtype, like.device, *constant)
    cycles = cutting.predicted(cut, warps, PROCESSORS, whole, reduced, carried)
    return cycles / CLOCK, f"{cut.chunks}"


def selective(direction: str, like: Tensor) -> tuple[float, str]:
    """Return predicted seconds, and chunks and slabs, of the selective scan."""
    B, T, D = like.shape
    shape = selective_scan.Shape(B, T, D, STATES, like.dtype, like.device)
    if direction == "forward":
        cut = selective_scan._cut(shape)
        whole, reduced, carried = (shape.work(name) for name in ("forward", "forward_reduce", "forward_carry"))
        warps = shape.B * shape.groups
        cycles = cutting.predicted(cut, warps, PROCESSORS, whole, reduced, carried, carriers=selective_scan.STATES)
        return cycles / CLOCK, f"{cut.chunks}"
    shares = selective_scan._share(shape)
    cycles = selective_scan.predicted(shares, *selective_scan.sharing(shape))
    return cycles / CLOCK, f"{shares.cut.chunks}, {shares.slabs} slabs"


def main() -> None:
    gpu.processors, gpu.resident = lambda device: PROCESSORS, resident  # type: ignore[assignment]
    for B, T, D in SHAPES:
        for source, dtypes in (
            ("linear_scan", (torch.float32, torch.complex64, torch.bfloat16)),
            ("rg_lru", (torch.float32, torch.bfloat16)),
            ("selective_scan", (torch.float32, torch.bfloat16)),
        ):
            for dtype in dtypes:
                like = torch.empty(B, T, D, dtype=dtype, device="meta")
                for direction in DIRECTIONS:
                    if source == "selective_scan":
                        seconds, cut = selective(direction, like)
                        moved = B * T * ((4 if direction == "forward" else 7) * D)
                        moved += B * T * STATES * (2 if direction == "forward" else 4)
                    else:
                        seconds, cut = scan(source, direction, like)
                        work = linear_scan.WORK[direction, False] if source == "linear_scan" else rg_lru.WORK[direction]
                        moved = B * T * D * (work.reads + work.writes)
                    share = moved * dtype.itemsize / BANDWIDTH / seconds
                    print(
                        f"{source:15s} {str(dtype)[6:]:10s} {(B, T, D)!s:17s} {direction:9s}"
                        f"{seconds * 1e6:8.0f} us {share:6.0%}   chunks: {cut}"
                    )


if __name__ == "__main__":
    main()
