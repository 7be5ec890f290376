"""Softmax cross entropy over the whole catalogue without ever holding all the logits.

    loss = mean over n of  log Σ_v exp(z[n, v]) - z[n, targets[n]],    z = states @ items.T + bias

Its gradient with respect to z[n, v] is (softmax(z[n])[v] - [v = targets[n]]) / N, known as soon as the row's normaliser
is, so the forward pass computes the gradients while it has the logits at hand, and the backward pass only scales them
by the gradient of the loss. Memory grows with N + V and not with N · V, and each logit is computed once.

Shapes: N positions, V items, D width.
"""

import torch
from torch import Tensor

from seqbench.ops.operator import Gradient, Operator, Signature, check
from seqbench.precision import in_full


@in_full
def linear_cross_entropy(
    states: Tensor, items: Tensor, bias: Tensor | None, targets: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Compute the mean over positions of -log softmax(states @ items.T + bias)[target].

    Args:
        states: (N, D), N ≥ 1.
        items: (V, D), same dtype and device as `states`.
        bias: (V,), or None.
        targets: (N,) int64 in [0, V).
        backend: name of a backend, or "auto".

    Returns:
        Scalar mean loss in nats, in the dtype of `states`, differentiable (once) in states, items and bias; half
        precision is accumulated in float32.

    Raises:
        ValueError: there are no positions, or shapes, dtypes or devices do not fit.
        UsageError: the backend is unknown or cannot run on this device.
    """
    if states.dim() != 2 or states.shape[0] == 0:
        raise ValueError(f"states must be (N, D) with at least one position, got {tuple(states.shape)}")
    N, D = states.shape
    if items.dim() != 2 or items.shape[1] != D:
        raise ValueError(f"items must be (V, {D}), got {tuple(items.shape)}")
    check("states", states, items=(items, items.shape), bias=(bias, items.shape[:1]))
    if targets.shape != (N,) or targets.dtype != torch.int64 or targets.device != states.device:
        raise ValueError(
            f"targets must be int64 of shape {(N,)} on {states.device}, "
            f"got {targets.dtype} of {tuple(targets.shape)} on {targets.device}"
        )
    leaves = (states, items, bias)
    wanted = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves)
    loss: Tensor = OPERATOR(states, items, bias, targets, wanted, backend=backend)[0]
    return loss


def _empty_results(states, items, bias, targets, gradients):  # type: ignore[no-untyped-def]
    shapes = (tensor.shape if gradients and tensor is not None else (0,) for tensor in (states, items, bias))
    return states.new_empty(()), *(states.new_empty(shape) for shape in shapes)


def _save(ctx, arguments, results) -> None:  # type: ignore[no-untyped-def]
    _, *gradients = results
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)


def _vjp(ctx, backward, grad_loss, *_):  # type: ignore[no-untyped-def]
    scaled = (
        gradient * grad_loss if wanted and grad_loss is not None else None
        for gradient, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
    )
    return *scaled, None, None


OPERATOR = Operator(
    "linear_cross_entropy",
    Signature(
        "(Tensor states, Tensor items, Tensor? bias, Tensor targets, bool gradients)"
        " -> (Tensor, Tensor, Tensor, Tensor)",
        empty=_empty_results,
    ),
    Gradient(_save, _vjp),
)
