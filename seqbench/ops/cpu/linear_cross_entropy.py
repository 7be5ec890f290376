"""Cross entropy in C++: kernels/linear_cross_entropy.cpp behind the signature of every backend.

Shapes: N positions, V items, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, THREADS, address, function, plain, threads
from seqbench.ops.precision import widened

KERNEL = "linear_cross_entropy"
_ARGUMENTS = (*(POINTER,) * 13, *(INTEGER,) * 6, *THREADS)

MULTIPLE = 16  # of which the kernel wants the width and a block's positions to be a multiple
CHUNK = 64  # and of this one, a slice's items

# Exponentials of a block of positions: with more positions, the gradient of the items is read and written less often.
BLOCK_BYTES = 16 << 20
BLOCK_POSITIONS = 128
# Parts of the items that threads take, each with a share of its own in the gradient of a block's states.
SLICES = 64
SLICE_ITEMS = 256  # at least


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
    if missing := -width % MULTIPLE:
        states, items = F.pad(states, (0, missing)), F.pad(items, (0, missing))
    states, items, targets = plain(states), plain(items), plain(targets)
    bias = None if bias is None else plain(bias)
    D, dtype = states.shape[1], states.dtype

    # From the shapes alone, so that results do not depend on the number of threads.
    block = min(BLOCK_BYTES // (V * dtype.itemsize), BLOCK_POSITIONS, N)
    block = max(_up(block, MULTIPLE) if block == N else block // MULTIPLE * MULTIPLE, MULTIPLE)
    stride = block if block % 128 else block + MULTIPLE  # lines a power of two apart would share few places in a cache
    slice_items = max(_up(-(-V // SLICES), CHUNK), SLICE_ITEMS)
    slices = -(-V // slice_items)

    def room(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    loss = room(dtype=torch.float64)
    # Empty where it is not wanted, and the kernel is given no address.
    grad_states, grad_items = (room(N, D), room(V, D)) if gradients else (room(0), room(0))
    grad_bias = room(V) if gradients and bias is not None else room(0)
    workspace = (
        room(V, stride),
        room(D, block),
        room(slices, block),
        room(slices, block, dtype=torch.float64),
        room(slices if gradients else 0, block, D),
    )
    function(KERNEL, "forward", dtype, _ARGUMENTS)(
        *(address(tensor) for tensor in (states, items, bias, targets, loss)),
        *(address(tensor if tensor.numel() else None) for tensor in (grad_states, grad_items, grad_bias)),
        *(tensor.data_ptr() for tensor in workspace),
        *(N, V, D, block, stride, slice_items, *threads()),
    )
    if gradients and missing:
        grad_states, grad_items = grad_states[:, :width].contiguous(), grad_items[:, :width].contiguous()
    return loss.to(dtype), grad_states, grad_items, grad_bias


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
