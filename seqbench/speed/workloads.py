"""What is timed: each operator as the models use it, with shapes, inputs, and the bytes that it must move.

Bytes: the forward pass reads every input and writes the output. The backward pass reads what it needs of both
(`saved`) and the output's gradient, and writes a gradient for every input that has one. No implementation can move
less, unless it takes from the caches what the forward pass left there.

Shapes: B batch, T time, D channels, N states per channel; H heads, K channels of keys, V of values; for the loss and
the ranking N positions, V items, E items that cannot be recommended.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from seqbench.ops import (
    linear_cross_entropy,
    linear_scan,
    matrix_scan,
    rank_counts,
    rg_lru,
    selective_scan,
    silu_attention,
    top_k,
)

Shape = tuple[int, ...]
Inputs = dict[str, Tensor]
OUTPUT = "output"
REFERENCE_ELEMENTS = 1 << 24  # states whose float64 graph, about 1 GiB, the reference holds at once
BUCKETS = 129  # of time, as in HSTU
PASSES = ("forward", "forward+backward")
EXCLUDED = 50  # items that cannot be recommended, of each state
BEST = 20  # items that are looked for


@dataclass(frozen=True)
class Workload:
    """One operator under one use of it."""

    name: str
    operator: str  # in the registry of backends
    axes: str
    shapes: dict[str, tuple[Shape, ...]]  # by type of device
    make: Callable[[Shape, torch.dtype, Generator], Inputs]
    run: Callable[..., Tensor]  # (inputs, backend=name) -> output
    saved: tuple[str, ...]  # what the backward pass needs: inputs, or OUTPUT
    rows: tuple[str, ...]  # inputs with a batch dimension; rows do not depend on each other
    plain: Callable[[Inputs], Tensor] | None = None  # torch's own form, where that and no copy is the baseline
    complete: Callable[[Inputs, Tensor], Tensor] | None = None  # makes the output of what `plain` gives; not timed
    is_complex: bool = False
    differentiable: bool = True
    of_rows: tuple[str, ...] = ("B", "T", "D")  # the axes of the output where rows do not depend on each other

    @property
    def baseline(self) -> str:
        """The name of what times are compared with: a copy of as many bytes, or the plain form."""
        return "copy" if self.plain is None else "plain"

    @property
    def passes(self) -> tuple[str, ...]:
        """What is timed: the forward pass alone where there is no gradient."""
        return PASSES if self.differentiable else PASSES[:1]

    def dtype(self, real: torch.dtype) -> torch.dtype | None:
        """Return the dtype of its tensors for a real one; None if there is none."""
        if not self.is_complex:
            return real
        return {torch.float32: torch.complex64, torch.float64: torch.complex128}.get(real)

    def fits(self, shape: Shape) -> bool:
        """Tell whether the shape has as many numbers as the operator takes."""
        return len(shape) == len(self.axes.split("x"))

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output, or that of a scalar, which also stands for one without a gradient."""
        sizes = dict(zip(self.axes.split("x"), shape, strict=True))
        return tuple(sizes[axis] for axis in self.of_rows) if self.rows and self.differentiable else ()

    def bytes_moved(self, inputs: Inputs, output: Tensor) -> tuple[int, int]:
        """Count the bytes of the forward pass, and of both passes."""
        tensors = {**inputs, OUTPUT: output}
        forward = sum(tensor.nbytes for tensor in tensors.values())
        backward = sum(tensors[name].nbytes for name in self.saved) + output.nbytes
        return forward, forward + backward + sum(tensor.nbytes for tensor in leaves(inputs).values())

    def rows_at_once(self, shape: Shape) -> int:
        """Return how many batch rows' graph the reference can hold."""
        elements = math.prod(shape[1:]) if self.differentiable else shape[-1]
        return max(1, REFERENCE_ELEMENTS // elements) if self.rows else shape[0]


def leaves(inputs: Inputs) -> Inputs:
    """Return the inputs that have a gradient."""
    return {name: tensor for name, tensor in inputs.items() if tensor.is_floating_point() or tensor.is_complex()}


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _scan_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    gates = torch.sigmoid(_normal(generator, *shape))
    return {"gates": gates.to(dtype), "inputs": _normal(generator, *shape).to(dtype)}


def _complex_scan_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    B, T, D = shape
    gates = torch.polar(_uniform(generator, 0.8, 0.99, D), _uniform(generator, 0, 2 * math.pi, D))
    inputs = torch.complex(_normal(generator, B, T, D), _normal(generator, B, T, D))
    return {"gates": gates.to(dtype), "inputs": inputs.to(dtype)}


def _run_scan(inputs: Inputs, backend: str) -> Tensor:
    return linear_scan(inputs["gates"], inputs["inputs"], backend=backend)


def _selective_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    """Draw step sizes of 0.001 to 0.1 and decays of -1 to -N: what Mamba starts with."""
    B, T, D, N = shape
    steps = torch.exp(_uniform(generator, math.log(1e-3), math.log(1e-1), B, T, D))
    values = {
        "inputs": _normal(generator, B, T, D),
        "deltas": torch.log(torch.expm1(steps)),
        "decay": -torch.arange(1.0, N + 1, device=generator.device).repeat(D, 1),
        "drive": _normal(generator, B, T, N),
        "readout": _normal(generator, B, T, N),
        "skip": torch.ones(D, device=generator.device),
        "gate": _normal(generator, B, T, D),
    }
    return {name: value.to(dtype) for name, value in values.items()}


def _run_selective(inputs: Inputs, backend: str) -> Tensor:
    return selective_scan(**inputs, delta_softplus=True, backend=backend)[0]


def _matrix_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    """Draw queries and keys as long as a product of them is 1 wide, and decays of 0.37 to 1 a step."""
    B, T, H, K, V = shape
    values = {
        "query": _normal(generator, B, T, H, K) / math.sqrt(K),
        "key": _normal(generator, B, T, H, K),
        "value": _normal(generator, B, T, H, V),
        "log_decay": -_uniform(generator, 0, 1, B, T, H),
    }
    return {name: value.to(dtype) for name, value in values.items()}


def _run_matrix(inputs: Inputs, backend: str) -> Tensor:
    return matrix_scan(**inputs, backend=backend)[0]


def _gated_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    B, T, D = shape
    values = {
        "inputs": _normal(generator, B, T, D),
        "gates": _normal(generator, B, T, 2 * D),
        "decay": _normal(generator, D),
    }
    return {name: value.to(dtype) for name, value in values.items()}


def _run_gated(inputs: Inputs, backend: str) -> Tensor:
    return rg_lru(**inputs, backend=backend)


def _loss_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    N, D, V = shape
    return {
        "states": _normal(generator, N, D).to(dtype),
        "items": (_normal(generator, V, D) / math.sqrt(D)).to(dtype),
        "bias": _normal(generator, V).to(dtype),
        "targets": torch.randint(0, V, (N,), generator=generator, device=generator.device),
    }


def _run_loss(inputs: Inputs, backend: str) -> Tensor:
    return linear_cross_entropy(**inputs, backend=backend)


def _plain_loss(inputs: Inputs) -> Tensor:
    return F.cross_entropy(F.linear(inputs["states"], inputs["items"], inputs["bias"]), inputs["targets"])


def _ranking_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    """Draw small whole numbers: scores are exact in every order of summation, and counts and order with them."""
    N, D, V = shape

    def drawn(low: int, high: int, *sizes: int) -> Tensor:
        return torch.randint(low, high, sizes, generator=generator, device=generator.device)

    return {
        "states": drawn(-2, 3, N, D).to(dtype),
        "items": drawn(-2, 3, V, D).to(dtype),
        "bias": drawn(-2, 3, V).to(dtype),
        "targets": drawn(0, V, N),
        "excluded": drawn(0, V, N, EXCLUDED),
    }


def _run_counts(inputs: Inputs, backend: str) -> Tensor:
    return torch.stack(rank_counts(**inputs, backend=backend)[:2], dim=1)


def _run_best(inputs: Inputs, backend: str) -> Tensor:
    states, items, bias, _, excluded = inputs.values()
    return top_k(states, items, bias, excluded, min(BEST, len(items)), backend=backend)[1]


def _product(inputs: Inputs) -> Tensor:
    return F.linear(inputs["states"], inputs["items"], inputs["bias"])


def _counts_of_scores(inputs: Inputs, scores: Tensor) -> Tensor:
    found = []
    for row, target, out in zip(scores, inputs["targets"], inputs["excluded"], strict=True):  # no second (N, V)
        row = row.index_fill(0, out, -torch.inf)
        found.append(torch.stack([(row > row[target]).sum(), (row == row[target]).sum() - 1]))
    return torch.stack(found)


def _best_of_scores(inputs: Inputs, scores: Tensor) -> Tensor:
    ids, found = torch.arange(scores.shape[1], device=scores.device), []
    for row, out in zip(scores, inputs["excluded"], strict=True):
        keys = row.double().index_fill(0, out, -torch.inf) * len(ids) - ids  # of equal scores the lower id
        values, best = keys.topk(min(BEST, len(ids)))
        found.append(best.where(values > -torch.inf, 0))
    return torch.stack(found)


def _attention_inputs(shape: Shape, dtype: torch.dtype, generator: Generator) -> Inputs:
    """Draw times with gaps of up to a day between items."""
    B, _, T, _ = shape
    values = {name: _normal(generator, *shape) for name in ("query", "key", "value")}
    values |= {"position_bias": _normal(generator, T), "time_bias": _normal(generator, BUCKETS)}
    drawn = {name: value.to(dtype) for name, value in values.items()}
    events = torch.randint(0, 86_400, (B, T), generator=generator, device=generator.device).cumsum(1)
    return {**drawn, "events": events, "requests": events}


def _run_attention(inputs: Inputs, backend: str) -> Tensor:
    return silu_attention(**inputs, scale=1 / len(inputs["position_bias"]), backend=backend)


LINEAR_SCAN = Workload(
    name="linear_scan",
    operator="linear_scan",
    axes="BxTxD",
    shapes={
        "cpu": ((128, 200, 128), (32, 1024, 128), (1, 16384, 128), (2048, 50, 64)),
        "cuda": ((2048, 200, 128), (8192, 50, 64), (1, 65536, 1536), (8, 8192, 1536)),
    },
    make=_scan_inputs,
    run=_run_scan,
    saved=("gates", OUTPUT),
    rows=("gates", "inputs"),
)
LINEAR_SCAN_COMPLEX = Workload(
    name="linear_scan_complex",  # constant gates, as in LRURec
    operator="linear_scan",
    axes="BxTxD",
    shapes={
        "cpu": ((32, 200, 128), (128, 50, 128)),
        "cuda": ((2048, 200, 128), (8192, 50, 64)),
    },
    make=_complex_scan_inputs,
    run=_run_scan,
    saved=("gates", OUTPUT),
    rows=("inputs",),
    is_complex=True,
)
SELECTIVE_SCAN = Workload(
    name="selective_scan",
    operator="selective_scan",
    axes="BxTxDxN",
    shapes={
        "cpu": ((16, 200, 128, 32), (1, 4096, 128, 16)),
        "cuda": ((2048, 200, 128, 32), (8, 8192, 1536, 16)),
    },
    make=_selective_inputs,
    run=_run_selective,
    saved=("inputs", "deltas", "decay", "drive", "readout", "skip", "gate"),
    rows=("inputs", "deltas", "drive", "readout", "gate"),
)
MATRIX_SCAN = Workload(
    name="matrix_scan",
    operator="matrix_scan",
    axes="BxTxHxKxV",
    shapes={
        "cpu": ((16, 200, 4, 16, 32), (16, 200, 4, 32, 32), (1, 4096, 8, 64, 64)),
        "cuda": ((2048, 200, 4, 32, 32), (8, 8192, 24, 128, 64)),
    },
    make=_matrix_inputs,
    run=_run_matrix,
    saved=("query", "key", "value", "log_decay"),
    rows=("query", "key", "value", "log_decay"),
    of_rows=("B", "T", "H", "V"),
)
RG_LRU = Workload(
    name="rg_lru",
    operator="rg_lru",
    axes="BxTxD",
    shapes={
        "cpu": ((128, 200, 128), (2048, 50, 64)),
        "cuda": ((2048, 200, 128), (8192, 50, 64), (8, 8192, 1536)),
    },
    make=_gated_inputs,
    run=_run_gated,
    saved=("inputs", "gates", "decay", OUTPUT),
    rows=("inputs", "gates"),
)
SILU_ATTENTION = Workload(
    name="silu_attention",
    operator="silu_attention",
    axes="BxHxTxE",
    shapes={
        "cpu": ((32, 1, 200, 50), (8, 4, 1024, 64)),
        "cuda": ((512, 4, 200, 64), (16, 4, 1024, 64)),
    },
    make=_attention_inputs,
    run=_run_attention,
    saved=("query", "key", "value", "position_bias", "time_bias", "events", "requests"),
    rows=("query", "key", "value", "events", "requests"),
    of_rows=("B", "H", "T", "E"),
)
LINEAR_CROSS_ENTROPY = Workload(
    name="linear_cross_entropy",
    operator="linear_cross_entropy",
    axes="NxDxV",
    shapes={
        "cpu": ((1024, 64, 23716), (2048, 64, 57289)),
        "cuda": ((16384, 64, 57289), (4096, 64, 350000)),
    },
    make=_loss_inputs,
    run=_run_loss,
    saved=("states", "items", "bias", "targets"),
    rows=(),
    plain=_plain_loss,
)
_RANKING_SHAPES: dict[str, tuple[Shape, ...]] = {
    "cpu": ((256, 64, 12102), (256, 64, 200001)),
    "cuda": ((4096, 64, 57289), (4096, 64, 2000001)),
}
RANK_COUNTS = Workload(
    name="rank_counts",
    operator="rank_counts",
    axes="NxDxV",
    shapes=_RANKING_SHAPES,
    make=_ranking_inputs,
    run=_run_counts,
    saved=(),
    rows=("states", "targets", "excluded"),
    plain=_product,
    complete=_counts_of_scores,
    differentiable=False,
)
TOP_K = replace(RANK_COUNTS, name="top_k", operator="top_k", run=_run_best, complete=_best_of_scores)
