"""Counts in C++: kernels/rank_counts.cpp. Shapes: N states, V items, D width, E excluded items of a state."""

import torch
from torch import Tensor

from seqbench.ops.cpu import scores
from seqbench.ops.cpu.binding import INTEGER, POINTER, THREADS, address, function, threads
from seqbench.ops.layout import plain
from seqbench.ops.precision import widened

KERNEL = "rank_counts"
_ARGUMENTS = (*scores.TABLE, *(POINTER,) * 8, *(INTEGER,) * 5, *THREADS)


@widened
def forward(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, excluded: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return better (N,), ties (N,) and finite (N,); arguments as in `rank_counts`."""
    states, items, bias = scores.laid_out(states, items, bias)
    (N, D), V, E = states.shape, items.shape[0], excluded.shape[1]
    targets, excluded = plain(targets), scores.sorted_rows(excluded)
    better, ties = torch.empty_like(targets), torch.empty_like(targets)
    finite = torch.empty(N, dtype=torch.bool)
    lanes = scores.lanes(KERNEL, states)
    slices = scores.slices(V)
    dtype = states.dtype
    workspace = (torch.empty(lanes, D, dtype=dtype), *(torch.empty(n, lanes, dtype=dtype) for n in (1, 3 * slices)))
    function(KERNEL, "forward", dtype, _ARGUMENTS)(
        *(*scores.table(states, items, bias), targets.data_ptr(), excluded.data_ptr()),
        *(address(tensor) for tensor in (better, ties, finite, *workspace)),
        *(N, V, D, E, slices, *threads()),
    )
    return better, ties, finite
