"""The real-gated linear recurrent unit of RecBLR: gates from their pre-activations, and the scan that uses them.

Liu, Lin, Liu, Wang, Yang, Zhu, Caverlee. "Behavior-Dependent Linear Recurrent Units for Efficient Sequential
Recommendation", CIKM 2024, equations 5 to 8, with the 1e-8 of its code; without the factor 8 that Griffin (De et al.,
2024), where the unit comes from, has in the exponent.

    α[t] = exp(-softplus(Λ) ⊙ σ(r[t]))
    h[t] = α[t] ⊙ h[t-1] + √(1 - α[t]² + 1e-8) ⊙ σ(g[t]) ⊙ x[t]

Only r, g, x and h are in memory; α and what multiplies x are computed where they are used, in the backward pass again.

Shapes: B batch, T time, D channels.
"""

from torch import Tensor

from seqbench.ops.operator import Gradient, Operator, Signature, check, like
from seqbench.precision import in_full


@in_full
def rg_lru(
    inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """Compute the gated recurrence; differentiable in all four arguments.

    Args:
        inputs: (B, T, D), x.
        gates: (B, T, 2D) pre-activations: r (decay) in the first half, g (input) in the second.
        decay: (D,), Λ.
        initial_state: (B, D), the state before the first step; zero if None.
        backend: name of a backend, or "auto".

    Returns:
        (B, T, D) states in the dtype of `inputs`; half precision is accumulated in float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        UsageError: the backend is unknown or cannot run on this device.
    """
    if inputs.dim() != 3:
        raise ValueError(f"inputs must be (B, T, D), got {tuple(inputs.shape)}")
    B, T, D = inputs.shape
    if initial_state is None:
        initial_state = inputs.new_zeros((B, D))
    if not inputs.is_floating_point():
        raise ValueError(f"inputs must be real floating-point numbers, got {inputs.dtype}")
    check("inputs", inputs, gates=(gates, (B, T, 2 * D)), decay=(decay, (D,)), initial_state=(initial_state, (B, D)))
    states: Tensor = OPERATOR(inputs, gates, decay, initial_state, backend=backend)
    return states


def _save(ctx, arguments, states) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*arguments, states)


def _vjp(ctx, backward, grad_states):  # type: ignore[no-untyped-def]
    return backward(*ctx.saved_tensors, grad_states)


OPERATOR = Operator(
    "rg_lru",
    Signature(
        "(Tensor inputs, Tensor gates, Tensor decay, Tensor initial_state) -> Tensor",
        empty=lambda inputs, *_: like(inputs),
        flops=lambda inputs, *_: 8 * inputs.numel(),  # α: 1, the root: 3, what it multiplies: 2, the recurrence: 2
    ),
    Gradient(
        _save,
        _vjp,
        Signature(
            "(Tensor inputs, Tensor gates, Tensor decay, Tensor initial_state, Tensor states, Tensor grad_states)"
            " -> (Tensor, Tensor, Tensor, Tensor)",
            empty=lambda *tensors: tuple(like(tensor) for tensor in tensors[:4]),
        ),
    ),
)
