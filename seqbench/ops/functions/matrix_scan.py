"""Linear attention with decays: a recurrence whose state is a matrix, asked by a query at every step.

    S[t] = exp(g[t]) · S[t-1] + k[t] v[t]ᵀ          (K × V), for each head
    o[t] = S[t]ᵀ q[t]

One number per head and step fades the state. Instances are retention (Sun et al., "Retentive Network: A Successor to
Transformer for Large Language Models", 2023, equations 1 to 7), where g is a constant of the head, and the state space
duality of Mamba-2 (Dao, Gu. "Transformers are SSMs", ICML 2024), where g = Δ·A, k = B, v = Δ·x and q = C depend on the
input, q and k being the same for all heads: `expand` them.

Shapes: B batch, T time, H heads, K channels of queries and keys, V channels of values. No state is kept for the
backward pass, which computes those that it needs again.
"""

from typing import NamedTuple

from torch import Tensor

from seqbench.ops.operator import Gradient, Operator, Signature, check, like
from seqbench.precision import in_full


class Arguments(NamedTuple):
    """What every backend is given: the arguments of `matrix_scan`, with the initial state filled in."""

    query: Tensor  # (B, T, H, K)
    key: Tensor  # (B, T, H, K)
    value: Tensor  # (B, T, H, V)
    log_decay: Tensor  # (B, T, H)
    initial_state: Tensor  # (B, H, K, V)


@in_full
def matrix_scan(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    initial_state: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Compute the recurrence; differentiable in every tensor and through both results.

    A step with a key of zeros and a log decay of 0 leaves the state as it is: so padding on the right is kept out of
    the final state. It is never in the outputs before it, as long as it is finite.

    Args:
        query: (B, T, H, K), q.
        key: (B, T, H, K), k.
        value: (B, T, H, V), v.
        log_decay: (B, T, H), g; -inf forgets all that was before.
        initial_state: (B, H, K, V), the state before the first step; zero if None.
        backend: name of a backend, or "auto".

    Returns:
        Outputs (B, T, H, V) and the final state (B, H, K, V), in the dtype of `query`; half precision is accumulated
        in float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        UsageError: the backend is unknown or cannot run on this device.
    """
    if query.dim() != 4 or value.dim() != 4:
        raise ValueError(
            f"query must be (B, T, H, K) and value (B, T, H, V), got {tuple(query.shape)} and {tuple(value.shape)}"
        )
    (B, T, H, K), V = query.shape, value.shape[3]
    if initial_state is None:
        initial_state = query.new_zeros((B, H, K, V))
    if not query.is_floating_point():
        raise ValueError(f"query must be real floating-point numbers, got {query.dtype}")
    check(
        "query",
        query,
        key=(key, (B, T, H, K)),
        value=(value, (B, T, H, V)),
        log_decay=(log_decay, (B, T, H)),
        initial_state=(initial_state, (B, H, K, V)),
    )
    outputs, final = OPERATOR(query, key, value, log_decay, initial_state, backend=backend)
    return outputs, final


def _save(ctx, arguments, results) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*arguments)


def _vjp(ctx, backward, grad_outputs, grad_final):  # type: ignore[no-untyped-def]
    return backward(*ctx.saved_tensors, grad_outputs, grad_final)


def _flops(query: Tensor, key: Tensor, value: Tensor, *_: Tensor) -> int:
    """Count per state the decay (1), what is added (2) and the read-out (2)."""
    return 5 * query.numel() * value.shape[3]


_SCAN = "Tensor query, Tensor key, Tensor value, Tensor log_decay, Tensor initial_state"
OPERATOR = Operator(
    "matrix_scan",
    Signature(
        f"({_SCAN}) -> (Tensor, Tensor)",
        empty=lambda query, key, value, log_decay, initial_state: (like(value), like(initial_state)),
        flops=_flops,
    ),
    Gradient(
        _save,
        _vjp,
        Signature(
            f"({_SCAN}, Tensor grad_outputs, Tensor grad_final) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
            empty=lambda *tensors: tuple(map(like, tensors[:5])),
        ),
    ),
    container=Arguments,
)
