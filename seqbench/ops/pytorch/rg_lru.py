"""RecBLR's recurrence in PyTorch operations: the gates, then the linear scan.

Shapes: B batch, T time, D channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.precision import widened
from seqbench.ops.pytorch import linear_scan


@widened
def forward(inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor) -> Tensor:
    """States (B, T, D); arguments as in `rg_lru`."""
    alpha, beta, opening, _ = _gates(gates, decay)
    return linear_scan.forward(alpha, beta.mul_(opening).mul_(inputs), initial_state, None)


@widened
def backward(
    inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor, states: Tensor, grad_states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of inputs (B, T, D), gates (B, T, 2D), decay (D,) and initial state (B, D).

    Args:
        inputs, gates, decay, initial_state: as given to `forward`.
        states: (B, T, D), what `forward` returned.
        grad_states: (B, T, D), gradient of the loss with respect to `states`.
    """
    alpha, beta, opening, forgetting = _gates(gates, decay)
    grad_alpha, grad_driven, grad_initial = linear_scan.backward(alpha, states, initial_state, None, grad_states)
    grad_opened = grad_driven * inputs * opening  # with respect to β
    grad_alpha -= grad_opened * alpha / beta
    grad_exponent = grad_alpha * alpha  # α = exp(-softplus(Λ) σ(r))
    rate = F.softplus(decay)
    grad_gates = torch.cat(
        [-rate * grad_exponent * forgetting * (1 - forgetting), grad_opened * beta * (1 - opening)], dim=-1
    )
    grad_decay = -(grad_exponent * forgetting).sum(dim=(0, 1)) * torch.sigmoid(decay)
    return grad_driven * beta * opening, grad_gates, grad_decay, grad_initial


def _gates(gates: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """α, β = √(1 - α² + 1e-8), σ(g) and σ(r), each (B, T, D)."""
    r, g = gates.chunk(2, dim=-1)
    forgetting = torch.sigmoid(r)
    exponent = -F.softplus(decay) * forgetting
    return exponent.exp(), torch.sqrt(1e-8 - torch.expm1(2 * exponent)), torch.sigmoid(g), forgetting
