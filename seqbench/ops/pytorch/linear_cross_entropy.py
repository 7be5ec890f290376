"""Cross entropy in plain PyTorch operations, one block of positions after the other, on any device.

Shapes: N positions, V items, D width.
"""

import torch
from torch import Tensor

from seqbench.ops.precision import widened

# A block of logits of this size stays in the cores' caches between the product that writes it, the softmax and
# the two products that read it. A GPU wants larger blocks to fill its processors.
BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}


@widened
def forward(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, gradients: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and its gradients.

    Args:
        states: (N, D), N ≥ 1.
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) integers in [0, V).
        gradients: whether to compute them.

    Returns:
        Scalar mean loss, and its gradients with respect to states, items and bias; one that is not wanted is (0,).
    """
    N, V = states.shape[0], items.shape[0]
    row_bytes = V * states.element_size()
    rows = max(16, BLOCK_BYTES.get(states.device.type, 2 << 20) // row_bytes)
    total = states.new_zeros((), dtype=torch.float64 if states.device.type == "cpu" else torch.float32)
    # Contiguous, whatever the strides of the arguments.
    grad_states = states.new_empty(states.shape if gradients else 0)
    grad_items = items.new_zeros(items.shape if gradients else 0)
    grad_bias = items.new_zeros(bias.shape if gradients and bias is not None else 0)
    scores = states.new_empty((min(rows, N), V))
    probabilities = torch.empty_like(scores)
    for start in range(0, N, rows):
        block = states[start : start + rows]
        target = targets[start : start + rows].unsqueeze(1)
        logits = scores[: block.shape[0]]
        if bias is None:
            torch.mm(block, items.t(), out=logits)
        else:
            torch.addmm(bias, block, items.t(), out=logits)
        weights = torch.softmax(logits, dim=1, out=probabilities[: block.shape[0]])
        # The largest probability is at least 1/V, so its logarithm is safe where the target's may not be.
        normaliser = logits.amax(dim=1) - weights.amax(dim=1).log()
        total += (normaliser - logits.gather(1, target).squeeze(1)).sum()
        if not gradients:
            continue
        # Softmax minus one at the target is the gradient of the logits.
        weights.scatter_add_(1, target, weights.new_full(target.shape, -1.0))
        torch.mm(weights, items, out=grad_states[start : start + rows])
        grad_items.addmm_(weights.t(), block, alpha=1 / N)
        if bias is not None:
            grad_bias += weights.sum(dim=0)
    if gradients:
        grad_states /= N
        grad_bias /= N
    return (total / N).to(states.dtype), grad_states, grad_items, grad_bias
