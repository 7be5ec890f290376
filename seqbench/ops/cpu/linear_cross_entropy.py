"""Cross entropy in C++: kernels/linear_cross_entropy.cpp behind the signature of every backend.

Shapes: N positions, V items, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, THREADS, address, function, threads
from seqbench.ops.layout import plain
from seqbench.ops.precision import widened

KERNEL = "linear_cross_entropy"
_ARGUMENTS = (*(POINTER,) * 13, *(INTEGER,) * 5, *THREADS)

# The width and the positions of a block are multiples of the first, the items of a slice of the second.
COLUMNS, CHUNK = 16, 64
# A block's exponentials, (V, positions), and how many positions it has at most.
BLOCK_BYTES, BLOCK_POSITIONS = 16 << 20, 128
# Slices of the items, which threads take one by one: so many, but none with fewer items than the second.
SLICES, SLICE_ITEMS = 64, 256


@widened
def forward(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and its gradients.

    Args:
        states: (N, D), N ≥ 1.
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) int64 in [0, V).
        gradients: whether to compute them.

    Returns:
        Scalar mean loss, and its gradients with respect to states, items and bias; one that is not wanted is (0,).

    Raises:
        IndexError: a target is no item.
    """
    (N, width), V = states.shape, items.shape[0]
    lowest, highest = targets.aminmax()
    if lowest < 0 or highest >= V:
        raise IndexError(f"target {int(lowest if lowest < 0 else highest)} is out of bounds for {V} items")
    if missing := _up(max(width, 1), COLUMNS) - width:
        states, items = F.pad(states, (0, missing)), F.pad(items, (0, missing))
    states, items, targets = plain(states), plain(items), plain(targets)
    bias = None if bias is None else plain(bias)
    D, dtype = states.shape[1], states.dtype

    # From the shapes alone: results must not depend on the number of threads.
    fitting = BLOCK_BYTES // (V * dtype.itemsize) // COLUMNS * COLUMNS
    block = min(max(fitting, COLUMNS), BLOCK_POSITIONS, _up(N, COLUMNS))
    slice_items = max(_up(-(-V // SLICES), CHUNK), SLICE_ITEMS)
    slices = -(-V // slice_items)

    def room(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    loss = room(dtype=torch.float64)
    # Empty where it is not wanted, and the kernel is given no address.
    grad_states, grad_items = (room(N, D), room(V, D)) if gradients else (room(0), room(0))
    grad_bias = room(V) if gradients and bias is not None else room(0)
    workspace = (
        room(V, block),
        room(D, block),
        room(slices, block),
        room(slices, block, dtype=torch.float64),
        room(slices if gradients else 0, block, D),
    )
    function(KERNEL, "forward", dtype, _ARGUMENTS)(
        *(address(tensor) for tensor in (states, items, bias, targets, loss)),
        *(address(tensor if tensor.numel() else None) for tensor in (grad_states, grad_items, grad_bias)),
        *(tensor.data_ptr() for tensor in workspace),
        *(N, V, D, block, slice_items, *threads()),
    )
    if gradients and missing:
        grad_states, grad_items = grad_states[:, :width].contiguous(), grad_items[:, :width].contiguous()
    return loss.to(dtype), grad_states, grad_items, grad_bias


def _up(count: int, multiple: int) -> int:
    """The least multiple that is not below `count`."""
    return -(-count // multiple) * multiple
