"""Cross entropy over all logits at once. Shapes: N positions, V items, D width."""

import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.precision import widened


@widened
def forward(states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Scalar mean loss; arguments as in `linear_cross_entropy`."""
    return F.cross_entropy(F.linear(states, items, bias), targets)
