"""The recurrence of matrix states in PyTorch operations, forward and backward, on any device.

Time is cut into chunks of C steps. Within a chunk all is products of matrices; with L[i, j] = exp(g[j+1] + … + g[i])
for j ≤ i and 0 elsewhere,

    o = (q kᵀ ∘ L) v + (e ∘ q) S        S ← w · S + (l ∘ k)ᵀ v

where S is the state before the chunk, e[i] = exp(g[0] + … + g[i]), l[j] = L[C-1, j] and w = e[C-1]. The logarithms of
every stretch are added up for themselves: in a difference of two sums from the beginning of the chunk, a decay of 0
would be -inf - -inf, and small ones would have the rounding of large ones.

Shapes: B batch, T time, H heads, K channels of queries and keys, V channels of values, N chunks of C steps; within,
sequences are (B, H, N, C, …).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.functions.matrix_scan import Arguments
from seqbench.ops.precision import widened

CHUNK = 64  # steps at most; on a CPU 32 and 64 are alike


@widened
def forward(scan: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, H, V) and the final state (B, H, K, V)."""
    if _no_step(scan):
        return scan.value.new_zeros(scan.value.shape), scan.initial_state.clone(memory_format=torch.contiguous_format)
    cut = _cut(scan)
    states, final = _states(cut, scan.initial_state)
    outputs = (cut.query @ cut.key.mT * cut.within) @ cut.value + (cut.enter * cut.query) @ states
    return _joined(outputs, scan.value.shape[1]), final


@widened
def backward(scan: Arguments, grad_outputs: Tensor, grad_final: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of `forward` with respect to its five tensors.

    Args:
        scan: as given to `forward`.
        grad_outputs: (B, T, H, V), gradient of the loss with respect to the outputs.
        grad_final: (B, H, K, V), the same for the final state.
    """
    if _no_step(scan):
        zeros = [tensor.new_zeros(tensor.shape) for tensor in scan[:4]]
        return *zeros, grad_final.clone(memory_format=torch.contiguous_format)
    cut, T = _cut(scan), scan.value.shape[1]
    states, _ = _states(cut, scan.initial_state)
    grad = _chunks(grad_outputs, cut.query.shape[3])
    after, grad_initial = _grad_states(cut, grad, grad_final)
    products = cut.query @ cut.key.mT
    grad_products = grad @ cut.value.mT * cut.within
    from_before = cut.enter * (grad @ states.mT)  # what entered the chunk, asked by its queries
    to_behind = cut.leave * (cut.value @ after.mT)  # what leaves it
    # A decay acts on what passes it: from a step of the chunk to its own or a later one, from before, to behind.
    passing = (grad_products * products).cumsum(dim=4)
    within = F.pad(passing[..., :-1], (1, 0)).tril().sum(dim=3)
    entered = (cut.query * from_before).sum(dim=4).flip(3).cumsum(dim=3).flip(3)
    left = F.pad((cut.key * to_behind).sum(dim=4).cumsum(dim=3)[..., :-1], (1, 0))
    through = (cut.whole * after * states).sum(dim=(3, 4)).unsqueeze(3)
    return (
        _joined(grad_products @ cut.key + from_before, T),
        _joined(grad_products.mT @ cut.query + to_behind, T),
        _joined((products * cut.within).mT @ grad + (cut.leave * cut.key) @ after, T),
        _joined((within + entered + left + through).unsqueeze(4), T).squeeze(3),
        grad_initial,
    )


class _Cut(NamedTuple):
    """A problem cut into chunks, and what its decays come to."""

    query: Tensor  # (B, H, N, C, K)
    key: Tensor
    value: Tensor  # (B, H, N, C, V)
    within: Tensor  # (B, H, N, C, C), L
    enter: Tensor  # (B, H, N, C, 1), e
    leave: Tensor  # (B, H, N, C, 1), l
    whole: Tensor  # (B, H, N, 1, 1), w


def _cut(scan: Arguments) -> _Cut:
    C = min(CHUNK, scan.query.shape[1])
    query, key, value = (_chunks(tensor, C) for tensor in (scan.query, scan.key, scan.value))
    logs = _chunks(scan.log_decay.unsqueeze(3), C).squeeze(4)
    steps = torch.arange(C, device=logs.device)
    later = steps.unsqueeze(1) > steps  # i > j
    # At [i, j] the logarithm of step i, if it is later than j: their sums down a column are those of the stretches.
    stretches = logs.unsqueeze(4).masked_fill(~later, 0.0).cumsum(dim=3)
    within = stretches.exp_().tril_()
    enter = logs.cumsum(dim=3).exp_().unsqueeze(4)
    return _Cut(query, key, value, within, enter, within[..., -1, :].unsqueeze(4), enter[..., -1:, :])


def _chunks(tensor: Tensor, C: int) -> Tensor:
    """Return (B, T, H, X) as (B, H, N, C, X), with zeros behind the last step: steps that change no state."""
    missing = -tensor.shape[1] % C
    cut: Tensor = F.pad(tensor.transpose(1, 2), (0, 0, 0, missing)).unflatten(2, (-1, C))
    return cut


def _joined(chunks: Tensor, T: int) -> Tensor:
    """Return the first T steps of (B, H, N, C, X) as (B, T, H, X)."""
    return chunks.flatten(2, 3)[:, :, :T].transpose(1, 2).contiguous()


def _states(cut: _Cut, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states before the chunks, (B, H, N, K, V), and the one after the last."""
    added = (cut.leave * cut.key).mT @ cut.value
    before = []
    for whole, each in zip(cut.whole.unbind(2), added.unbind(2), strict=True):
        before.append(state)
        state = torch.addcmul(each, whole, state)
    return torch.stack(before, dim=2), state.contiguous()


def _grad_states(cut: _Cut, grad: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the states after the chunks, (B, H, N, K, V), and that of the initial state."""
    added = (cut.enter * cut.query).mT @ grad
    after = []
    for whole, each in zip(reversed(cut.whole.unbind(2)), reversed(added.unbind(2)), strict=True):
        after.append(state)
        state = torch.addcmul(each, whole, state)
    return torch.stack(after[::-1], dim=2), state.contiguous()


def _no_step(scan: Arguments) -> bool:
    """Tell whether there is no step, or no state that one could change."""
    return scan.value.numel() == 0 or scan.key.numel() == 0
