"""Problems for the compiled kernels: every operator, element type and layout of memory, small."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seqbench.ops.functions.linear_scan import linear_scan
from seqbench.ops.functions.rg_lru import rg_lru
from seqbench.ops.functions.selective_scan import selective_scan
from tests.ops.opskit import SUMMED, assert_close
from tests.ops.test_cuda_kernels import differentiated

REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "linear_scan": (*REAL, torch.complex64, torch.complex128),
    "rg_lru": REAL,
    "selective_scan": REAL,
}
PAIRS = [(operator, dtype) for operator, dtypes in DTYPES.items() for dtype in dtypes]
LAYOUTS = ("contiguous", "time-major", "sliced", "every other step")
# Batch, channels, and states of the selective scan: less than a warp, a part of the second one, many groups.
SHAPES = ((3, 5), (2, 33), (1, 131))
STATES = ((2, 5, 3), (2, 33, 16), (1, 70, 8), (1, 9, 40), (1, 3, 256), (1, 17, 20))


@dataclass
class Case:
    """Arguments of an operator, and cotangents of its results."""

    label: str
    function: Callable[..., Any]
    tensors: dict[str, Tensor]
    cotangents: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def truth(self) -> list[Tensor]:
        """Results and gradients of the reference in double precision."""
        double = torch.complex128 if self.cotangents[0].is_complex() else torch.float64
        wide = {name: tensor.to(double) for name, tensor in self.tensors.items()}
        cotangents = [tensor.to(double) for tensor in self.cotangents]
        return differentiated(self.function, wide, cotangents, backend="reference", **self.options)

    def check(self) -> None:
        """Compare the backend "cuda" with the reference; its kernels get the strides that the tensors have."""
        ours = differentiated(self.function, self.tensors, self.cotangents, backend="cuda", **self.options)
        names = [*(f"result {index}" for index in range(len(self.cotangents))), *self.tensors]
        for name, mine, true in zip(names, ours, self.truth, strict=True):
            factor = SUMMED[self.function.__name__].get(name, 1.0)
            assert_close(mine, true, self.cotangents[0].dtype, f"{self.label}: {name}", factor)


def cases(operator: str, dtype: torch.dtype, T: int, layouts: Sequence[str] = LAYOUTS) -> Iterator[Case]:
    """Yield the problems of one operator and element type with T steps, in each layout of memory."""
    yield from {"linear_scan": _linear, "rg_lru": _gated, "selective_scan": _selective}[operator](dtype, T, layouts)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same (B, T, D) values with other strides."""
    B, T, D = tensor.shape
    if layout == "time-major":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "sliced":
        wide = torch.full((B, T, 2 * D + 3), torch.nan, dtype=tensor.dtype)
        wide[..., 3 : 3 + D] = tensor
        return wide[..., 3 : 3 + D]
    if layout == "every other step":
        wide = torch.full((B, 2 * T, D), torch.nan, dtype=tensor.dtype)
        wide[:, ::2] = tensor
        return wide[:, ::2]
    return tensor


def _randn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64 if dtype.is_complex else torch.float32).to(dtype)


def _linear(dtype: torch.dtype, T: int, layouts: Sequence[str]) -> Iterator[Case]:
    for B, D in SHAPES:
        for layout in layouts if D == 5 else layouts[:1]:
            for constant in (False, True):
                for lengths in (None, torch.tensor([T, 0, max(T // 2, 1)])[:B]):
                    gates = torch.rand(*((D,) if constant else (B, T, D)))
                    if dtype.is_complex:
                        gates = torch.polar(gates, 6.28 * torch.rand_like(gates))
                    gates = gates.to(dtype)
                    tensors = {
                        "gates": gates if constant else laid_out(gates, layout),
                        "inputs": laid_out(_randn(B, T, D, dtype=dtype), layout),
                        "initial_state": _randn(B, D, dtype=dtype),
                    }
                    label = f"T={T} B={B} D={D} {layout} constant={constant} lengths={lengths is not None}"
                    cotangent = laid_out(_randn(B, T, D, dtype=dtype), layout)
                    options = {} if lengths is None else {"lengths": lengths}
                    yield Case(label, linear_scan, tensors, [cotangent], options)


def _gated(dtype: torch.dtype, T: int, layouts: Sequence[str]) -> Iterator[Case]:
    for B, D in SHAPES:
        for layout in layouts if D == 5 else layouts[:1]:
            tensors = {
                "inputs": laid_out(_randn(B, T, D, dtype=dtype), layout),
                "gates": laid_out((3 * torch.randn(B, T, 2 * D)).to(dtype), layout),
                "decay": _randn(D, dtype=dtype),
                "initial_state": _randn(B, D, dtype=dtype),
            }
            cotangent = laid_out(_randn(B, T, D, dtype=dtype), layout)
            yield Case(f"T={T} B={B} D={D} {layout}", rg_lru, tensors, [cotangent])


def _selective(dtype: torch.dtype, T: int, layouts: Sequence[str]) -> Iterator[Case]:
    for B, D, N in STATES:
        for layout in layouts if D == 5 else layouts[:1]:
            for softplus in (False, True):
                for optional in (False, True):
                    deltas = torch.randn(B, T, D) - 1 if softplus else torch.rand(B, T, D)
                    tensors = {
                        "inputs": laid_out(_randn(B, T, D, dtype=dtype), layout),
                        "deltas": laid_out(deltas.to(dtype), layout),
                        "decay": (-0.1 - 2 * torch.rand(D, N)).to(dtype),
                        "drive": laid_out(_randn(B, T, N, dtype=dtype), layout),
                        "readout": laid_out(_randn(B, T, N, dtype=dtype), layout),
                    }
                    if optional:
                        tensors |= {
                            "skip": _randn(D, dtype=dtype),
                            "gate": laid_out(_randn(B, T, D, dtype=dtype), layout),
                            "initial_state": _randn(B, D, N, dtype=dtype),
                        }
                    cotangents = [laid_out(_randn(B, T, D, dtype=dtype), layout), _randn(B, D, N, dtype=dtype)]
                    label = f"T={T} B={B} D={D} N={N} {layout} softplus={softplus} optional={optional}"
                    yield Case(label, selective_scan, tensors, cotangents, {"delta_softplus": softplus})
