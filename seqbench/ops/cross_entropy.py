"""Softmax cross entropy over the whole catalogue without ever holding all the logits.

Shapes: N positions, V items, D width.
"""

import torch
from torch import Tensor

# A block of logits of this size stays in the cores' caches between the product that writes it, the softmax and
# the two products that read it. A GPU wants larger blocks to fill its processors.
BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}


def linear_cross_entropy(states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean over positions of -log softmax(states @ items.T + bias)[target].

    Blocks of positions are scored, normalised and differentiated one after the other, so memory grows with
    N + V and not with N · V, and each logit is computed once for loss and gradient together.

    Args:
        states: (N, D), N ≥ 1.
        items: (V, D).
        bias: (V,), or None.
        targets: (N,) integers in [0, V).

    Returns:
        Scalar mean loss in nats, differentiable (once) in states, items and bias.

    Raises:
        ValueError: there are no positions.
    """
    if states.shape[0] == 0:
        raise ValueError("linear_cross_entropy needs at least one position")
    return _LinearCrossEntropy.apply(states, items, bias, targets)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, items, bias, targets):  # type: ignore[no-untyped-def]
        wanted = ctx.needs_input_grad
        N, V = states.shape[0], items.shape[0]
        row_bytes = V * states.element_size()
        rows = max(16, BLOCK_BYTES.get(states.device.type, 2 << 20) // row_bytes)
        total = states.new_zeros((), dtype=torch.float64 if states.device.type == "cpu" else torch.float32)
        grad_states = torch.empty_like(states) if wanted[0] else None
        grad_items = torch.zeros_like(items) if wanted[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
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
            # Softmax minus one at the target is the gradient of the logits.
            weights.scatter_add_(1, target, weights.new_full(target.shape, -1.0))
            if grad_states is not None:
                torch.mm(weights, items, out=grad_states[start : start + rows])
            if grad_items is not None:
                grad_items.addmm_(weights.t(), block)
            if grad_bias is not None:
                grad_bias += weights.sum(dim=0)
        ctx.save_for_backward(grad_states, grad_items, grad_bias)
        ctx.positions = N
        return (total / N).to(states.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):  # type: ignore[no-untyped-def]
        scale = grad_loss / ctx.positions
        return *(None if grad is None else grad * scale for grad in ctx.saved_tensors), None
