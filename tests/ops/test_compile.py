"""torch.compile sees every operator as one node of one graph, and changes neither results nor gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqbench.ops import linear_cross_entropy, linear_scan, matrix_scan, rg_lru, selective_scan
from seqbench.ops.backends import BACKENDS, use
from seqbench.ops.dropout import dropout

B, T, D, N, V = 2, 5, 3, 4, 7
TARGETS = torch.tensor([1, 2])
CALLS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "linear_scan": (linear_scan, ((B, T, D), (B, T, D), (B, D))),
    "rg_lru": (rg_lru, ((B, T, D), (B, T, 2 * D), (D,), (B, D))),
    "selective_scan": (
        lambda *tensors: torch.cat([result.flatten() for result in selective_scan(*tensors, delta_softplus=True)]),
        ((B, T, D), (B, T, D), (D, N), (B, T, N), (B, T, N), (D,), (B, T, D), (B, D, N)),
    ),
    "matrix_scan": (
        lambda *tensors: torch.cat([result.flatten() for result in matrix_scan(*tensors)]),
        ((B, T, D, N), (B, T, D, N), (B, T, D, V), (B, T, D), (B, D, N, V)),
    ),
    "linear_cross_entropy": (
        lambda states, items, bias: linear_cross_entropy(states, items, bias, TARGETS),
        ((len(TARGETS), D), (V, D), (V,)),
    ),
    "dropout": (lambda x: dropout(x, 0.5, training=True), ((B, T, D),)),
}


@pytest.mark.parametrize(("operator", "backend"), [*((name, "cpu") for name in CALLS), ("linear_scan", "torch")])
def test_compiles_into_one_graph(operator: str, backend: str) -> None:
    if reason := BACKENDS[backend].unavailable(operator, "cpu"):
        pytest.skip(reason)
    torch._dynamo.reset()  # a graph keeps the backend that it was traced with
    function, shapes = CALLS[operator]
    arguments = [torch.randn(shape, requires_grad=True) for shape in shapes]
    outcomes = []
    for call in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(0)
        with use(backend):
            result = call(*arguments)
        outcomes.append([result, *torch.autograd.grad(result.sum(), arguments)])
    for plain, compiled in zip(*outcomes, strict=True):
        torch.testing.assert_close(compiled, plain)
