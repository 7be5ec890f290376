"""The first-order linear recurrence that the efficient architectures have in common.

    h[t] = gates[t] * h[t-1] + inputs[t]

Gradients, for a loss gradient c[t] with respect to h[t] (complex: torch's convention dL/dRe + i·dL/dIm):
g[t] = c[t] + conj(gates[t+1])·g[t+1]; then d inputs[t] = g[t], d gates[t] = g[t]·conj(h[t-1]) and
d initial_state = conj(gates[0])·g[0].

Shapes: B batch, T time, D channels.
"""

import torch
from torch import Tensor

from seqbench.ops.operator import Gradient, Operator, Signature, check, like
from seqbench.precision import in_full


@in_full
def linear_scan(
    gates: Tensor,
    inputs: Tensor,
    initial_state: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Solve h[t] = gates[t] * h[t-1] + inputs[t]; differentiable in all three arguments.

    Args:
        gates: (B, T, D), or (D,) when constant over batch and time. Any value, zero and negative included.
        inputs: (B, T, D), real or complex, same dtype and device as `gates`.
        initial_state: (B, D), the state before the first step; zero if None.
        lengths: (B,) int64, how many steps of each row to take; padding behind them is neither read nor computed, and
            its states and gradients are zero. All T if None.
        backend: name of a backend, or "auto".

    Returns:
        (B, T, D) states, those at the last step being the final state, in the dtype of `inputs`; half precision is
        accumulated in float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        UsageError: the backend is unknown or cannot run on this device.
    """
    if inputs.dim() != 3:
        raise ValueError(f"inputs must be (B, T, D), got {tuple(inputs.shape)}")
    B, _, D = inputs.shape
    if gates.shape != ((D,) if gates.dim() == 1 else inputs.shape):
        raise ValueError(f"gates must be {tuple(inputs.shape)} or {(D,)}, got {tuple(gates.shape)}")
    if initial_state is None:
        initial_state = inputs.new_zeros((B, D))
    check("inputs", inputs, gates=(gates, gates.shape), initial_state=(initial_state, (B, D)))
    if inputs.dtype == torch.complex32:
        raise ValueError("inputs of complex32 are not supported; use complex64")
    if lengths is not None and (
        lengths.shape != (B,) or lengths.dtype != torch.int64 or lengths.device != inputs.device
    ):
        raise ValueError(
            f"lengths must be int64 of shape {(B,)} on {inputs.device}, "
            f"got {lengths.dtype} of {tuple(lengths.shape)} on {lengths.device}"
        )
    states: Tensor = OPERATOR(gates, inputs, initial_state, lengths, backend=backend)
    return states


def _save(ctx, arguments, states) -> None:  # type: ignore[no-untyped-def]
    gates, _, initial_state, lengths = arguments
    ctx.save_for_backward(gates, states, initial_state, lengths)


def _vjp(ctx, backward, grad_states):  # type: ignore[no-untyped-def]
    return *backward(*ctx.saved_tensors, grad_states), None


OPERATOR = Operator(
    "linear_scan",
    Signature(
        "(Tensor gates, Tensor inputs, Tensor initial_state, Tensor? lengths) -> Tensor",
        empty=lambda gates, inputs, *_: like(inputs),
        flops=lambda gates, inputs, *_: (8 if inputs.is_complex() else 2) * inputs.numel(),
    ),
    Gradient(
        _save,
        _vjp,
        Signature(
            "(Tensor gates, Tensor states, Tensor initial_state, Tensor? lengths, Tensor grad_states)"
            " -> (Tensor, Tensor, Tensor)",
            empty=lambda gates, states, initial_state, *_: (like(gates), like(states), like(initial_state)),
        ),
    ),
)
