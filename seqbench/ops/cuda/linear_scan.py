"""The scan in CUDA: kernels/linear_scan.cu behind the signatures of every backend.

Shapes: B batch, T time, D channels, C chunks of time.
"""

from functools import cache

import torch
from torch import Tensor

from seqbench.ops.cuda import cutting
from seqbench.ops.cuda import launch as gpu
from seqbench.ops.cuda.cutting import BLOCK, WARP, Cut, Work
from seqbench.ops.cuda.launch import Argument, strided
from seqbench.ops.layout import plain, rows

SOURCE = "linear_scan"
# By kernel, and whether gates are constant.
WORK = {
    ("forward", False): Work(reads=2, writes=1, instructions=13, half=20),
    ("forward", True): Work(reads=1, writes=1, instructions=9, half=15),
    ("forward_reduce", False): Work(reads=2, writes=0, instructions=10, half=11),
    ("forward_reduce", True): Work(reads=1, writes=0, instructions=7, half=7),
    ("backward", False): Work(reads=3, writes=2, instructions=26, half=36),
    ("backward", True): Work(reads=2, writes=1, instructions=26, half=36),
    ("backward_reduce", False): Work(reads=2, writes=0, instructions=10, half=11),
    ("backward_reduce", True): Work(reads=1, writes=0, instructions=7, half=7),
}


def forward(gates: Tensor, inputs: Tensor, initial_state: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the states of h[t] = gates[t] * h[t-1] + inputs[t].

    Args:
        gates: (B, T, D), or (D,) when constant over time.
        inputs: (B, T, D).
        initial_state: (B, D).
        lengths: (B,) steps of each row, or None for all T.

    Returns:
        (B, T, D) contiguous states; zero from `lengths` on.
    """
    B, T, D = inputs.shape
    states = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    if states.numel() == 0:
        return states
    gates, inputs, initial_state = rows(gates), rows(inputs), plain(initial_state)
    lengths = None if lengths is None else lengths.contiguous()
    pieces = _cut("forward", B, T, D, inputs.dtype, inputs.device, gates.dim() == 1)
    sizes = (B, T, D, pieces.chunks, pieces.size)
    entering = None
    if pieces.chunks > 1:
        products, entering = pieces.buffers(inputs)
        _launch(
            *("forward_reduce", inputs, B * pieces.chunks * D),
            *(*strided(gates), *strided(inputs), lengths, products, entering, *sizes),
        )
        _launch(
            *("forward_carry", inputs, B * D),
            *(products, entering, initial_state, B, pieces.chunks, D),
        )
    _launch(
        *("forward", inputs, B * pieces.chunks * D),
        *(*strided(gates), *strided(inputs), initial_state, entering, lengths),
        *(states, *sizes),
    )
    return states


def backward(
    gates: Tensor, states: Tensor, initial_state: Tensor, lengths: Tensor | None, grad_states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `forward`, by the adjoint recurrence g[t] = grad[t] + conj(gates[t+1]) * g[t+1].

    Args:
        gates: as given to `forward`.
        states: (B, T, D), what `forward` returned.
        initial_state: (B, D).
        lengths: as given to `forward`.
        grad_states: (B, T, D), gradient of the loss with respect to `states`.

    Returns:
        Gradients with respect to gates (in their shape), inputs (B, T, D) and initial state (B, D).
    """
    B, T, D = states.shape
    dtype, device = states.dtype, states.device
    grad_inputs = torch.empty(states.shape, dtype=dtype, device=device)
    if states.numel() == 0:
        return gates.new_zeros(gates.shape), grad_inputs, initial_state.new_zeros(initial_state.shape)
    grad_initial = torch.empty(initial_state.shape, dtype=dtype, device=device)
    constant = gates.dim() == 1
    pieces = _cut("backward", B, T, D, dtype, device, constant)
    sizes = (B, T, D, pieces.chunks, pieces.size)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    # Sums over a chunk, for constant gates. Torch adds them up in one order, so the result does not depend on timing.
    partial = torch.empty((B, pieces.chunks, D), dtype=wide, device=device) if constant else None
    grad_gates = None if constant else torch.empty(gates.shape, dtype=dtype, device=device)
    gates, states, grad_states, initial_state = rows(gates), rows(states), rows(grad_states), plain(initial_state)
    lengths = None if lengths is None else lengths.contiguous()
    entering = None
    if pieces.chunks > 1:
        products, entering = pieces.buffers(states)
        _launch(
            *("backward_reduce", states, B * pieces.chunks * D),
            *(*strided(gates), *strided(grad_states), lengths, products, entering, *sizes),
        )
        _launch("backward_carry", states, B * D, products, entering, B, pieces.chunks, D)
    _launch(
        *("backward", states, B * pieces.chunks * D),
        *(*strided(gates), *strided(states), initial_state, *strided(grad_states), entering),
        *(lengths, grad_gates, grad_inputs, grad_initial, partial),
        *sizes,
    )
    if grad_gates is None:
        assert partial is not None
        grad_gates = partial.sum(dim=(0, 1)).to(dtype)
    return grad_gates, grad_inputs, grad_initial


@cache
def _cut(direction: str, B: int, T: int, D: int, dtype: torch.dtype, device: torch.device, constant: bool) -> Cut:
    """Choose how to cut time, once for all calls of one shape."""

    def passing(kernel: str) -> cutting.Pass:
        return WORK[kernel, constant].of(dtype, _resident(kernel, dtype, device))

    carried = cutting.carrying(dtype, _resident(f"{direction}_carry", dtype, device))
    whole, reduced = passing(direction), passing(f"{direction}_reduce")
    return cutting.cut(-(-B * D // WARP), T, gpu.processors(device), whole, reduced, carried)


def _resident(kernel: str, dtype: torch.dtype, device: torch.device) -> int:
    return gpu.resident(SOURCE, f"{SOURCE}_{kernel}", gpu.element(dtype), device, BLOCK)


def _launch(kernel: str, like: Tensor, threads: int, *arguments: Argument) -> None:
    gpu.launch(SOURCE, f"{SOURCE}_{kernel}", like, threads=threads, block=BLOCK, arguments=arguments)
