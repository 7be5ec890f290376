"""RecBLR's recurrence in PyTorch operations: its gates, then the linear scan. Shapes: B batch, T time, D channels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.precision import widened
from seqbench.ops.pytorch import linear_scan


@widened
def forward(inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor) -> Tensor:
    """States (B, T, D); arguments as in `rg_lru`."""
    _, opened, alpha, beta = _gated(gates, decay)
    result: Tensor = linear_scan.forward(alpha, beta * opened * inputs, initial_state, None)
    return result


@widened
def backward(
    inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor, states: Tensor, grad_states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `forward` with respect to inputs, gates, decay and initial state.

    Args:
        inputs, gates, decay, initial_state: as given to `forward`.
        states: (B, T, D), what `forward` returned.
        grad_states: (B, T, D), gradient of the loss with respect to `states`.
    """
    recurrence, opened, alpha, beta = _gated(gates, decay)
    grad_alpha, grad_driven, grad_initial = linear_scan.backward(alpha, states, initial_state, None, grad_states)
    grad_opened = grad_driven * beta * inputs
    # log α acts on h[t-1] through α, and on x through β, whose derivative is -α²/β.
    exponent = alpha * (grad_alpha - alpha / beta * (grad_driven * opened * inputs))
    grad_gates = torch.empty(gates.shape, dtype=gates.dtype, device=gates.device)
    grad_r, grad_g = grad_gates.chunk(2, dim=-1)
    torch.mul(-F.softplus(decay) * exponent, recurrence * (1 - recurrence), out=grad_r)
    torch.mul(grad_opened, opened * (1 - opened), out=grad_g)
    grad_decay = -(exponent * recurrence).sum(dim=(0, 1)) * torch.sigmoid(decay)
    return grad_driven * beta * opened, grad_gates, grad_decay, grad_initial


def _gated(gates: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """σ(r), σ(g), α and β = √(1 - α² + 1e-8), each (B, T, D).

    Where α is close to 1, 1 - α² has few digits; with e = α - 1 it is -e·(2 + e).
    """
    r, g = gates.chunk(2, dim=-1)
    recurrence = torch.sigmoid(r)
    e = torch.expm1(-F.softplus(decay) * recurrence)
    return recurrence, torch.sigmoid(g), e + 1, torch.sqrt(1e-8 - e * (2 + e))
