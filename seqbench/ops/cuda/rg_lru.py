"""RecBLR's recurrence in CUDA: kernels/rg_lru.cu behind the signatures of every backend.

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

SOURCE = "rg_lru"
WORK = {
    "forward": Work(reads=3, writes=1, instructions=106, half=48),
    "forward_reduce": Work(reads=3, writes=0, instructions=104, half=40),
    "backward": Work(reads=5, writes=3, instructions=155, half=94),
    "backward_reduce": Work(reads=2, writes=0, instructions=39, half=18),
}


def forward(inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor) -> Tensor:
    """Return the states of the gated recurrence.

    Args:
        inputs: (B, T, D).
        gates: (B, T, 2D) pre-activations.
        decay: (D,).
        initial_state: (B, D).

    Returns:
        (B, T, D) contiguous states.
    """
    B, T, D = inputs.shape
    states = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    if states.numel() == 0:
        return states
    inputs, gates, decay, initial_state = rows(inputs), rows(gates), plain(decay), plain(initial_state)
    pieces = _cut("forward", B, T, D, inputs.dtype, inputs.device)
    sizes = (B, T, D, pieces.chunks, pieces.size)
    entering = None
    if pieces.chunks > 1:
        products, entering = pieces.buffers(inputs)
        _launch(
            *("forward_reduce", inputs, B * pieces.chunks * D),
            *(*strided(inputs), *strided(gates), decay, products, entering, *sizes),
        )
        _launch(
            *("forward_carry", inputs, B * D),
            *(products, entering, initial_state, B, pieces.chunks, D),
        )
    _launch(
        *("forward", inputs, B * pieces.chunks * D),
        *(*strided(inputs), *strided(gates)),
        *(decay, initial_state, entering, states),
        *sizes,
    )
    return states


def backward(
    inputs: Tensor, gates: Tensor, decay: Tensor, initial_state: Tensor, states: Tensor, grad_states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `forward`.

    Args:
        inputs: as given to `forward`, and so are gates, decay and initial_state.
        gates: (B, T, 2D).
        decay: (D,).
        initial_state: (B, D).
        states: (B, T, D), what `forward` returned.
        grad_states: (B, T, D), gradient of the loss with respect to `states`.

    Returns:
        Gradients with respect to inputs (B, T, D), gates (B, T, 2D), decay (D,) and initial state (B, D).
    """
    B, T, D = inputs.shape
    dtype, device = inputs.dtype, inputs.device
    grad_inputs = torch.empty(inputs.shape, dtype=dtype, device=device)
    grad_gates = torch.empty(gates.shape, dtype=dtype, device=device)
    if inputs.numel() == 0:
        return grad_inputs, grad_gates, decay.new_zeros(decay.shape), initial_state.new_zeros(initial_state.shape)
    grad_initial = torch.empty(initial_state.shape, dtype=dtype, device=device)
    inputs, gates, decay, initial_state = rows(inputs), rows(gates), plain(decay), plain(initial_state)
    states, grad_states = rows(states), rows(grad_states)
    pieces = _cut("backward", B, T, D, dtype, device)
    sizes = (B, T, D, pieces.chunks, pieces.size)
    # Sums over a chunk. Torch adds them up in one order, so the result does not depend on timing.
    partial = torch.empty((B, pieces.chunks, D), dtype=torch.float64, device=device)
    entering = None
    if pieces.chunks > 1:
        products, entering = pieces.buffers(inputs)
        _launch(
            *("backward_reduce", inputs, B * pieces.chunks * D),
            *(*strided(gates), decay, *strided(grad_states), products, entering, *sizes),
        )
        _launch("backward_carry", inputs, B * D, products, entering, B, pieces.chunks, D)
    _launch(
        *("backward", inputs, B * pieces.chunks * D),
        *(*strided(inputs), *strided(gates), decay, initial_state, *strided(states)),
        *strided(grad_states),
        *(entering, grad_inputs, grad_gates, grad_initial, partial),
        *sizes,
    )
    return grad_inputs, grad_gates, partial.sum(dim=(0, 1)).to(dtype), grad_initial


@cache
def _cut(direction: str, B: int, T: int, D: int, dtype: torch.dtype, device: torch.device) -> Cut:
    """Choose how to cut time, once for all calls of one shape."""
    whole, reduced = (
        WORK[kernel].of(dtype, _resident(kernel, dtype, device)) for kernel in (direction, f"{direction}_reduce")
    )
    carried = cutting.carrying(dtype, _resident(f"{direction}_carry", dtype, device))
    return cutting.cut(-(-B * D // WARP), T, gpu.processors(device), whole, reduced, carried)


def _resident(kernel: str, dtype: torch.dtype, device: torch.device) -> int:
    return gpu.resident(SOURCE, f"{SOURCE}_{kernel}", gpu.element(dtype), device, BLOCK)


def _launch(kernel: str, like: Tensor, threads: int, *arguments: Argument) -> None:
    gpu.launch(SOURCE, f"{SOURCE}_{kernel}", like, threads=threads, block=BLOCK, arguments=arguments)
