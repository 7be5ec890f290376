"""The scan in C++ on the CPU: kernels/linear_scan.cpp behind the signatures of every backend.

Shapes: B batch, T time, D channels.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from seqbench.ops import native

KERNEL = "linear_scan"
_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64
_STRIDED = (_POINTER, _INTEGER, _INTEGER)
_COMMON = (_INTEGER, _INTEGER, _INTEGER, ctypes.c_int, _POINTER)
_ARGUMENTS = {
    "forward": (*_STRIDED, *_STRIDED, _POINTER, _POINTER, *_COMMON),
    "backward": (*_STRIDED, *_STRIDED, _POINTER, *_STRIDED, *(_POINTER,) * 4, *_COMMON),
}


def unavailable(device: str) -> str | None:
    """Why it cannot run on this device, or None; compiles the kernel if need be."""
    return "it runs on the CPU only" if device != "cpu" else native.load(KERNEL).reason


def forward(gates: Tensor, inputs: Tensor, initial_state: Tensor) -> Tensor:
    """States of h[t] = gates[t] * h[t-1] + inputs[t].

    Args:
        gates: (B, T, D), or (D,) when constant over time.
        inputs: (B, T, D).
        initial_state: (B, D).

    Returns:
        (B, T, D) contiguous states in the dtype of `inputs`; half precision is accumulated in float32.
    """
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    if dtype != inputs.dtype:
        return forward(gates.to(dtype), inputs.to(dtype), initial_state.to(dtype)).to(inputs.dtype)
    states = torch.empty(inputs.shape, dtype=dtype)
    if states.numel() == 0:
        return states
    gates, inputs, initial_state = _rows(gates), _rows(inputs), _plain(initial_state).contiguous()
    run = _function("forward", dtype)
    run(
        *(*_strided(gates), *_strided(inputs), initial_state.data_ptr(), states.data_ptr()),
        *(*inputs.shape, torch.get_num_threads(), _torch_threads()),
    )
    return states


def backward(
    gates: Tensor, states: Tensor, initial_state: Tensor, grad_states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `forward`, by the adjoint recurrence g[t] = grad[t] + conj(gates[t+1]) * g[t+1].

    Args:
        gates: as given to `forward`.
        states: (B, T, D), what `forward` returned.
        initial_state: (B, D).
        grad_states: (B, T, D), gradient of the loss with respect to `states`.

    Returns:
        Gradients with respect to gates (in their shape), inputs (B, T, D) and initial state (B, D).
    """
    dtype = torch.promote_types(states.dtype, torch.float32)
    if dtype != states.dtype:
        wide = backward(gates.to(dtype), states.to(dtype), initial_state.to(dtype), grad_states.to(dtype))
        return tuple(gradient.to(states.dtype) for gradient in wide)  # type: ignore[return-value]
    grad_inputs = torch.empty(states.shape, dtype=dtype)
    if states.numel() == 0:
        return gates.new_zeros(gates.shape), grad_inputs, initial_state.new_zeros(initial_state.shape)
    grad_gates = torch.empty(gates.shape, dtype=dtype)
    grad_initial = torch.empty(initial_state.shape, dtype=dtype)
    # Sums over time of each batch row, for constant gates: added up in one order, however many threads there are.
    wide_dtype = torch.complex128 if dtype.is_complex else torch.float64
    partial = torch.empty(initial_state.shape, dtype=wide_dtype) if gates.dim() == 1 else None
    gates, states, grad_states = _rows(gates), _rows(states), _rows(grad_states)
    initial_state = _plain(initial_state).contiguous()
    run = _function("backward", dtype)
    run(
        *(*_strided(gates), *_strided(states), initial_state.data_ptr(), *_strided(grad_states)),
        *(tensor.data_ptr() for tensor in (grad_gates, grad_inputs, grad_initial)),
        None if partial is None else partial.data_ptr(),
        *(*states.shape, torch.get_num_threads(), _torch_threads()),
    )
    return grad_gates, grad_inputs, grad_initial


def _plain(tensor: Tensor) -> Tensor:
    """With conjugation and negation, which torch may only have noted, carried out."""
    return tensor.resolve_conj().resolve_neg()


def _rows(tensor: Tensor) -> Tensor:
    """With adjacent channels; a copy only if they are not."""
    tensor = _plain(tensor)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _strided(tensor: Tensor) -> tuple[int, int, int]:
    """Address, batch stride and time stride in real numbers; constant gates have strides of zero."""
    parts = 2 if tensor.is_complex() else 1
    batch, time = (0, 0) if tensor.dim() == 1 else tensor.stride()[:2]
    return tensor.data_ptr(), batch * parts, time * parts


@cache
def _function(direction: str, dtype: torch.dtype) -> Callable[..., None]:
    library = native.load(KERNEL).library
    assert library is not None, "unavailable() was not asked"
    function = library[f"linear_scan_{direction}_{str(dtype).removeprefix('torch.')}"]
    function.argtypes = _ARGUMENTS[direction]
    function.restype = None
    return function


@cache
def _torch_threads() -> int | None:
    """Address of the function that starts a parallel region in the OpenMP runtime that torch itself has loaded.

    After an operation of torch its threads keep the cores busy for a while, waiting for the next one; threads of our
    own would compete with them. None if torch was built without OpenMP: the kernel then starts threads itself.
    """
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None
