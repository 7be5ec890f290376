"""Cross entropy on a GPU: products by cuBLAS, and kernels/linear_cross_entropy.cu between them.

Positions are taken in chunks. A chunk's logits are written by the product, read for the largest and the sum of
exponentials, read again, from the cache where the chunk fits, for their gradient, which takes their place, and read by
the two products that follow: they move six times, where torch's operations for the same move them eleven times. A
product of ours would not be faster than cuBLAS's, and a kernel that keeps the logits out of memory altogether computes
them twice more: at D = 64 in float32 that is 256 operations per logit, 4 ps on an H100, against the 7 ps of some 20
bytes from memory, and much less from the cache, where a chunk is.

In half precision the products multiply half-precision numbers and add in float32, which is what the logits are; their
gradient is rounded. Nothing waits for the GPU.

Shapes: N positions, V items, D width.
"""

from functools import cache

import torch
from torch import Tensor

from seqbench.ops.cuda import launch as gpu
from seqbench.ops.layout import plain
from seqbench.ops.precision import HALF

SOURCE = "linear_cross_entropy"
# As in kernels/linear_cross_entropy.cu.
WARP = 32
BLOCK = 4 * WARP
MOST_SLICES = 32

# A product of fewer positions leaves cuBLAS's tiles empty; a chunk of more memory than this is not needed for anything.
FEWEST_ROWS = 128
MOST_BYTES = 256 << 20
# Half of the cache for a chunk of logits: items, states and gradients want the other.
CACHE_SHARE = 0.5


def forward(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the mean loss and its gradients with respect to states, items and bias; one not wanted is (0,).

    Args:
        states: (N, D), N ≥ 1.
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) integers in [0, V).
        gradients: whether to compute them.
    """
    (N, D), V = states.shape, items.shape[0]
    dtype, device = states.dtype, states.device
    precise = torch.float32 if dtype in HALF else dtype
    states, items, targets = plain(states), plain(items), targets.contiguous()
    bias = None if bias is None else plain(bias)
    rows = min(N, chunk_rows(V * precise.itemsize, gpu.cache_bytes(device)))
    slices = max(1, min(MOST_SLICES, _warps(dtype, device) // rows, V // BLOCK))
    size = -(-V // slices)
    slices = -(-V // size)

    def empty(*shape: int, dtype: torch.dtype = precise) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    logits = empty(rows, V)
    weights = logits if dtype == precise else empty(rows, V, dtype=dtype)
    partial, wanted, losses = empty(rows, slices, 2), empty(rows), empty(N)
    grad_states = empty(*(states.shape if gradients else (0,)))
    grad_items = torch.zeros(items.shape if gradients else (0,), dtype=precise, device=device)
    grad_bias = torch.zeros(V if gradients and bias is not None else 0, dtype=precise, device=device)
    for start in range(0, N, rows):
        end = min(start + rows, N)
        chunk, target, count = states[start:end], targets[start:end], end - start
        product(chunk, items.t(), logits[:count])
        sizes = (count, V, slices, size)
        _launch("statistics", states, count * slices, logits, bias, target, partial, wanted, *sizes)
        results = (losses[start:end], weights if gradients else None)
        _launch("gradient", states, count * slices, logits, bias, target, partial, wanted, *results, *sizes)
        if not gradients:
            continue
        product(weights[:count], items, grad_states[start:end])
        if dtype == precise:
            grad_items.addmm_(weights[:count].t(), chunk)
        else:
            grad_items += product(weights[:count].t(), chunk, empty(V, D))
        if bias is not None:
            grad_bias += weights[:count].sum(dim=0, dtype=precise)
    by_states, by_items, by_bias = ((gradient / N).to(dtype) for gradient in (grad_states, grad_items, grad_bias))
    return losses.mean().to(dtype), by_states, by_items, by_bias


@cache
def chunk_rows(row_bytes: int, cache_bytes: int) -> int:
    """Return how many positions a chunk has, whose logits take so many bytes each."""
    fitting = int(CACHE_SHARE * cache_bytes) // row_bytes
    return max(1, min(max(fitting, FEWEST_ROWS), MOST_BYTES // row_bytes))


def product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Write left · right to `out`; half-precision numbers are added up in float32."""
    if left.dtype == out.dtype:
        return torch.mm(left, right, out=out)
    if hasattr(torch.ops.aten.mm, "dtype_out"):
        result: Tensor = torch.ops.aten.mm.dtype_out(left, right, out.dtype, out=out)
        return result
    return torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)  # torch before 2.8


@cache
def _warps(dtype: torch.dtype, device: torch.device) -> int:
    """Return how many warps of `gradient`, of which fewer fit than of `statistics`, a GPU holds."""
    resident = gpu.resident(SOURCE, f"{SOURCE}_gradient", gpu.element(dtype), device, BLOCK)
    return resident * gpu.processors(device)


def _launch(kernel: str, like: Tensor, warps: int, *arguments: gpu.Argument) -> None:
    gpu.launch(SOURCE, f"{SOURCE}_{kernel}", like, threads=warps * WARP, block=BLOCK, arguments=arguments)
