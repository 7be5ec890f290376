"""The best items in C++: kernels/top_k.cpp. Shapes: N states, V items, D width, E excluded items of a state, K best."""

import torch
from torch import Tensor

from seqbench.ops.cpu import scores
from seqbench.ops.cpu.binding import INTEGER, POINTER, THREADS, function, threads
from seqbench.ops.precision import widened

KERNEL = "top_k"
_ARGUMENTS = (*scores.TABLE, *(POINTER,) * 5, *(INTEGER,) * 6, *THREADS)


@widened
def forward(states: Tensor, items: Tensor, bias: Tensor | None, excluded: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return scores (N, k) and ids (N, k), k ≤ V; arguments as in `top_k`."""
    states, items, bias = scores.laid_out(states, items, bias)
    (N, D), V, E, dtype = states.shape, items.shape[0], excluded.shape[1], states.dtype
    excluded = scores.sorted_rows(excluded)
    slices = scores.slices(V)
    best = torch.empty(slices, N, k, dtype=dtype)
    ids = torch.empty(slices, N, k, dtype=torch.int64)
    lanes = scores.lanes(KERNEL, states)
    panels, levels = torch.empty(lanes, D, dtype=dtype), torch.empty(slices, lanes, dtype=dtype)
    function(KERNEL, "forward", dtype, _ARGUMENTS)(
        *(*scores.table(states, items, bias), excluded.data_ptr()),
        *(tensor.data_ptr() for tensor in (best, ids, panels, levels)),
        *(N, V, D, E, k, slices, *threads()),
    )
    # Slices are in the order of the ids, which a stable sort keeps among equal scores.
    values, order = best.transpose(0, 1).reshape(N, slices * k).sort(dim=1, descending=True, stable=True)
    found = ids.transpose(0, 1).reshape(N, slices * k).gather(1, order)
    return values[:, :k].contiguous(), found[:, :k].contiguous()
