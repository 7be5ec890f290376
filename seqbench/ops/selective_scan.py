"""The selective state space of Mamba: per channel, N states whose decay, drive and read-out depend on the input.

Gu, Dao. "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, equations 1b and 4 with the
simplified discretisation of its code (B̄ = Δ·B).

    S[t] = exp(Δ[t]·A) ⊙ S[t-1] + (Δ[t]·x[t])·B[t]ᵀ          (D × N)
    y[t] = (S[t]·C[t] + skip ⊙ x[t]) ⊙ silu(z[t])

Shapes: B batch, T time, D channels, N states per channel. Nothing of shape (B, T, D, N) is ever held; the backward pass
computes the states again.
"""

import torch
from torch import Tensor

from seqbench.ops.backends import BACKENDS, resolve

OPERATOR = "selective_scan"


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
    """Mamba's scan; differentiable in every tensor and through both results.

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
    for name, tensor, shape in (
        ("deltas", deltas, (B, T, D)),
        ("decay", decay, (D, N)),
        ("drive", drive, (B, T, N)),
        ("readout", readout, (B, T, N)),
        ("skip", skip, (D,)),
        ("gate", gate, (B, T, D)),
        ("initial_state", initial_state, (B, D, N)),
    ):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != inputs.dtype or tensor.device != inputs.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, inputs are {inputs.dtype} on {inputs.device}"
            )
    if not inputs.is_floating_point():
        raise ValueError(f"inputs must be real floating-point numbers, got {inputs.dtype}")
    chosen = resolve(OPERATOR, backend, inputs.device.type)
    arguments = (inputs, deltas, decay, drive, readout, skip, gate, initial_state, delta_softplus)
    if chosen.name == "reference":
        return chosen.load(OPERATOR).forward(*arguments)
    return _selective_scan(*arguments, chosen.name)


@torch.library.custom_op("seqbench::selective_scan", mutates_args=())
def _selective_scan(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor,
    delta_softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        BACKENDS[backend]
        .load(OPERATOR)
        .forward(inputs, deltas, decay, drive, readout, skip, gate, initial_state, delta_softplus)
    )


@_selective_scan.register_fake
def _(inputs, deltas, decay, drive, readout, skip, gate, initial_state, delta_softplus, backend):  # type: ignore[no-untyped-def]
    return torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device), _like(initial_state)


@torch.library.custom_op("seqbench::selective_scan_backward", mutates_args=())
def _selective_scan_backward(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor,
    delta_softplus: bool,
    grad_outputs: Tensor,
    grad_final: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        BACKENDS[backend]
        .load(OPERATOR)
        .backward(
            *(inputs, deltas, decay, drive, readout, skip, gate, initial_state, delta_softplus),
            *(grad_outputs, grad_final),
        )
    )


@_selective_scan_backward.register_fake
def _(
    inputs: Tensor,
    deltas: Tensor,
    decay: Tensor,
    drive: Tensor,
    readout: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor,
    *_: object,
) -> tuple[Tensor, ...]:
    # A schema has no optional results: empty ones stand for gradients of arguments that were not given.
    return tuple(
        inputs.new_empty(0) if tensor is None else _like(tensor)
        for tensor in (inputs, deltas, decay, drive, readout, skip, gate, initial_state)
    )


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.delta_softplus, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_outputs, grad_final):  # type: ignore[no-untyped-def]
    tensors = ctx.saved_tensors
    gradients = _selective_scan_backward(*tensors, ctx.delta_softplus, grad_outputs, grad_final, ctx.backend)
    given = [None if tensor is None else gradient for tensor, gradient in zip(tensors, gradients, strict=True)]
    return *given, None, None


torch.library.register_autograd("seqbench::selective_scan", _differentiate, setup_context=_save)
