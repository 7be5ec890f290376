"""The selective state space of Mamba: per channel, N states whose decay, drive and read-out depend on the input.

Gu, Dao. "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, equations 1b and 4 with the
simplified discretisation of its code (B̄ = Δ·B).

    S[t] = exp(Δ[t]·A) ⊙ S[t-1] + (Δ[t]·x[t])·B[t]ᵀ          (D × N)
    y[t] = (S[t]·C[t] + skip ⊙ x[t]) ⊙ silu(z[t])

Shapes: B batch, T time, D channels, N states per channel. Nothing of shape (B, T, D, N) is ever held; the backward pass
computes the states again.
"""

from typing import NamedTuple

from torch import Tensor

from seqbench.ops.operator import Gradient, Operator, Signature, check, like
from seqbench.precision import in_full


class Arguments(NamedTuple):
    """What every backend is given: the arguments of `selective_scan`, with the initial state filled in."""

    inputs: Tensor  # (B, T, D)
    deltas: Tensor  # (B, T, D)
    decay: Tensor  # (D, N)
    drive: Tensor  # (B, T, N)
    readout: Tensor  # (B, T, N)
    skip: Tensor | None  # (D,)
    gate: Tensor | None  # (B, T, D)
    initial_state: Tensor  # (B, D, N)
    delta_softplus: bool

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The eight that may have a gradient."""
        return self[:8]


@in_full
def selective_scan(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Compute Mamba's scan; differentiable in every tensor and through both results.

    Args:
        inputs: (B, T, D), x.
        deltas: (B, T, D) step sizes Δ, or what softplus makes them from.
        decay: (D, N), A; negative in Mamba.
        drive: (B, T, N), B of the paper.
        readout: (B, T, N), C of the paper.
        skip: (D,), D of the paper; no such term if None.
        gate: (B, T, D), z; the output is multiplied with silu(z) if given.
        initial_state: (B, D, N), the state before the first step; zero if None.
        delta_softplus: whether Δ = softplus(deltas).
        backend: name of a backend, or "auto".

    Returns:
        Outputs (B, T, D) and the final state (B, D, N), in the dtype of `inputs`; half precision is accumulated in
        float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        UsageError: the backend is unknown or cannot run on this device.
    """
    if inputs.dim() != 3 or decay.dim() != 2:
        raise ValueError(
            f"inputs must be (B, T, D) and decay (D, N), got {tuple(inputs.shape)} and {tuple(decay.shape)}"
        )
    (B, T, D), N = inputs.shape, decay.shape[1]
    if initial_state is None:
        initial_state = inputs.new_zeros((B, D, N))
    if not inputs.is_floating_point():
        raise ValueError(f"inputs must be real floating-point numbers, got {inputs.dtype}")
    check(
        "inputs",
        inputs,
        deltas=(deltas, (B, T, D)),
        decay=(decay, (D, N)),
        drive=(drive, (B, T, N)),
        readout=(readout, (B, T, N)),
        skip=(skip, (D,)),
        gate=(gate, (B, T, D)),
        initial_state=(initial_state, (B, D, N)),
    )
    arguments = Arguments(inputs, deltas, decay, drive, readout, skip, gate, initial_state, delta_softplus)
    outputs, final = OPERATOR(*arguments, backend=backend)
    return outputs, final


def _save(ctx, arguments, results) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.delta_softplus = arguments
    ctx.save_for_backward(*tensors)


def _vjp(ctx, backward, grad_outputs, grad_final):  # type: ignore[no-untyped-def]
    tensors = ctx.saved_tensors
    gradients = backward(*tensors, ctx.delta_softplus, grad_outputs, grad_final)
    given = [None if tensor is None else gradient for tensor, gradient in zip(tensors, gradients, strict=True)]
    return *given, None


def _flops(given: Arguments) -> int:
    """Count per state Δ·A (1), the recurrence (3) and the read-out (2), and per channel Δ·x, the skip and the gate."""
    terms = 1 + 2 * (given.skip is not None) + (given.gate is not None)
    return given.inputs.numel() * (6 * given.decay.shape[1] + terms)


def _empty_gradients(*arguments):  # type: ignore[no-untyped-def]
    # A schema has no optional results: empty ones stand for gradients of arguments that were not given.
    inputs = arguments[0]
    return tuple(inputs.new_empty(0) if tensor is None else like(tensor) for tensor in arguments[:8])


_SCAN = (
    "Tensor inputs, Tensor deltas, Tensor decay, Tensor drive, Tensor readout, Tensor? skip, Tensor? gate, "
    "Tensor initial_state, bool delta_softplus"
)
OPERATOR = Operator(
    "selective_scan",
    Signature(
        f"({_SCAN}) -> (Tensor, Tensor)",
        empty=lambda *arguments: (like(arguments[0]), like(arguments[7])),
        flops=lambda *arguments: _flops(Arguments(*arguments)),
    ),
    Gradient(
        _save,
        _vjp,
        Signature(
            f"({_SCAN}, Tensor grad_outputs, Tensor grad_final)"
            " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
            empty=_empty_gradients,
        ),
    ),
    container=Arguments,
)
