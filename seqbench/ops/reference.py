"""The plain loop: the truth that every other backend is compared with. Any device, any dtype.

Shapes: B batch, T time, D channels.
"""

import torch
from torch import Tensor


def unavailable(device: str) -> str | None:
    """Runs wherever torch does."""
    return None


def scan(gates: Tensor, inputs: Tensor, initial_state: Tensor) -> Tensor:
    """h[t] = gates[t] * h[t-1] + inputs[t], step by step, differentiated by torch's own autograd.

    Args:
        gates: (B, T, D), or (D,) when constant over time.
        inputs: (B, T, D).
        initial_state: (B, D).

    Returns:
        (B, T, D) states in the dtype of `inputs`; half precision is accumulated in float32.
    """
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    state = initial_state.to(dtype)
    states = []
    for t in range(inputs.shape[1]):
        gate = gates if gates.dim() == 1 else gates[:, t]
        state = gate.to(dtype) * state + inputs[:, t].to(dtype)
        states.append(state)
    if not states:
        return torch.empty_like(inputs)
    return torch.stack(states, dim=1).to(inputs.dtype)
