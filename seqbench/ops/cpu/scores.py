"""What the kernels that go through all scores have in common: kernels/scores.h."""

import torch
from torch import Tensor

from seqbench.ops.cpu.binding import INTEGER, POINTER, address, function
from seqbench.ops.layout import plain, rows

TABLE = (POINTER, POINTER, INTEGER, POINTER)  # see `table`
SLICES_PER_THREAD = 2  # of the items; threads take them one by one


def laid_out(states: Tensor, items: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the tensors in the memory layout that the kernels read; to be kept until they return."""
    return plain(states), rows(items), None if bias is None else plain(bias)


def sorted_rows(ids: Tensor) -> Tensor:
    """Return ids (N, E) sorted within each row, contiguous."""
    return plain(ids.sort(dim=1).values)


def table(states: Tensor, items: Tensor, bias: Tensor | None) -> tuple[int | None, ...]:
    """Return the arguments that the kernels begin with."""
    return states.data_ptr(), items.data_ptr(), items.stride(0), address(bias)


def lanes(kernel: str, states: Tensor) -> int:
    """Return the number of states rounded up to what the kernel takes at a time."""
    width: int = function(kernel, "width", states.dtype, (), INTEGER)()
    return -(-states.shape[0] // width) * width


def slices(V: int) -> int:
    """Return into how many parts the items are cut; results do not depend on it."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 else min(threads * SLICES_PER_THREAD, V)
