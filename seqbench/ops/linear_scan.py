"""The first-order linear recurrence that the efficient architectures have in common.

    h[t] = gates[t] * h[t-1] + inputs[t]

Registered with torch.library (schema, fake tensors, autograd), so that torch.compile sees one opaque operator.

Gradients, for a loss gradient c[t] with respect to h[t] (complex: torch's convention dL/dRe + i·dL/dIm):
g[t] = c[t] + conj(gates[t+1])·g[t+1]; then d inputs[t] = g[t], d gates[t] = g[t]·conj(h[t-1]) and
d initial_state = conj(gates[0])·g[0].

Shapes: B batch, T time, D channels.
"""

import torch
from torch import Tensor

from seqbench.ops.backends import BACKENDS, resolve

OPERATOR = "linear_scan"


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
    if gates.shape not in (inputs.shape, (D,)):
        raise ValueError(f"gates must be {tuple(inputs.shape)} or {(D,)}, got {tuple(gates.shape)}")
    if initial_state is None:
        initial_state = inputs.new_zeros((B, D))
    if initial_state.shape != (B, D):
        raise ValueError(f"initial_state must be {(B, D)}, got {tuple(initial_state.shape)}")
    for name, tensor in (("gates", gates), ("initial_state", initial_state)):
        if tensor.dtype != inputs.dtype or tensor.device != inputs.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, inputs are {inputs.dtype} on {inputs.device}"
            )
    if lengths is not None and (lengths.shape != (B,) or lengths.dtype != torch.int64):
        raise ValueError(f"lengths must be int64 of shape {(B,)}, got {lengths.dtype} of {tuple(lengths.shape)}")
    chosen = resolve(OPERATOR, backend, inputs.device.type)
    if chosen.name == "reference":
        return chosen.load(OPERATOR).forward(gates, inputs, initial_state, lengths)
    return _linear_scan(gates, inputs, initial_state, lengths, chosen.name)


@torch.library.custom_op("seqbench::linear_scan", mutates_args=())
def _linear_scan(gates: Tensor, inputs: Tensor, initial_state: Tensor, lengths: Tensor | None, backend: str) -> Tensor:
    return BACKENDS[backend].load(OPERATOR).forward(gates, inputs, initial_state, lengths)


@_linear_scan.register_fake
def _(gates: Tensor, inputs: Tensor, initial_state: Tensor, lengths: Tensor | None, backend: str) -> Tensor:
    return torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)


@torch.library.custom_op("seqbench::linear_scan_backward", mutates_args=())
def _linear_scan_backward(
    gates: Tensor, states: Tensor, initial_state: Tensor, lengths: Tensor | None, grad_states: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return BACKENDS[backend].load(OPERATOR).backward(gates, states, initial_state, lengths, grad_states)


@_linear_scan_backward.register_fake
def _(
    gates: Tensor, states: Tensor, initial_state: Tensor, lengths: Tensor | None, grad_states: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    def like(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)

    return like(gates), like(states), like(initial_state)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    gates, _, initial_state, lengths, ctx.backend = inputs
    ctx.save_for_backward(gates, output, initial_state, lengths)


def _differentiate(ctx, grad_states):  # type: ignore[no-untyped-def]
    gradients = _linear_scan_backward(*ctx.saved_tensors, grad_states, ctx.backend)
    return *gradients, None, None


torch.library.register_autograd("seqbench::linear_scan", _differentiate, setup_context=_save)
