"""The block of Mamba-2, whose states are matrices that fade by one number per head and step.

Dao, Gu. "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
ICML 2024, figure 6. Official code: https://github.com/state-spaces/mamba (mamba_ssm/modules/mamba2.py), whose defaults
and initialisation these are, with one group: B and C are the same for all heads.

    [z ; p ; δ] = W_in x + b_in
    [c ; B ; C] = activation(depthwise causal convolution of p)
    Δ = softplus(δ + b_Δ),   A = -exp(A_log)                                    per head
    S[t] = exp(Δ[t]·A) S[t-1] + B[t] (Δ[t]·c[t])ᵀ,   y[t] = S[t]ᵀ C[t] + D · c[t]
    out = W_out RMSNorm(y ⊙ silu(z)) + b_out

Shapes: B batch, T time, D width, I = expand · D channels in heads of P, N channels of B and C, K width of the
convolution.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import State, at_last
from seqbench.models.mamba import LARGEST_STEP, SMALLEST_STEP
from seqbench.ops import matrix_scan
from seqbench.ops.causal_convolution import causal_convolution

SLOWEST_DECAY, FASTEST_DECAY = 1.0, 16.0  # -A is drawn between these

# Of the models that are built on it: see mamba.py.
NO_WEIGHT_DECAY = ("decay_log", "skip", "step_bias")


class SSD(nn.Module):
    """Convolution, recurrence of matrix states and gated RMS norm between two projections. Causal."""

    def __init__(
        self,
        hidden_size: int,
        *,
        d_state: int,
        d_conv: int,
        expand: int,
        heads: int,
        activation: Callable[[Tensor], Tensor],
        norm_eps: float,
    ) -> None:
        super().__init__()
        width = expand * hidden_size
        self.activation, self.norm_eps = activation, norm_eps
        self.sizes = (width, d_state, d_state)
        self.projected = (width, width + 2 * d_state, heads)
        self.in_projection = nn.Linear(hidden_size, sum(self.projected))  # rows: z, p, δ
        bound = 1 / math.sqrt(d_conv)
        self.convolution_weight = nn.Parameter(torch.empty(d_conv, self.projected[1]).uniform_(-bound, bound))
        self.convolution_bias = nn.Parameter(torch.empty(self.projected[1]).uniform_(-bound, bound))
        steps = torch.empty(heads).uniform_(math.log(SMALLEST_STEP), math.log(LARGEST_STEP)).exp()
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus
        self.decay_log = nn.Parameter(torch.empty(heads).uniform_(SLOWEST_DECAY, FASTEST_DECAY).log())  # A_log
        self.skip = nn.Parameter(torch.ones(heads))  # D of the paper
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.out_projection = nn.Linear(width, hidden_size)

    def mix(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None, rates: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Mix x (B, T, D) from its start, or from where `state` was left: (B, T, D), and the state after it.

        Args:
            x: (B, T, D).
            state: before x; that of nothing if None.
            lengths: (B,) positions after which the state is returned; all if None. Later results mean nothing.
            rates: (B, T, heads), what δ is multiplied with.
        """
        gate, inputs, steps = self.in_projection(x).split(self.projected, dim=-1)
        mixed, state = self._scan(inputs, steps, state, lengths, rates)
        return self._leave(mixed, gate), state

    def mix_last(self, x: Tensor, lengths: Tensor, rates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and what is mixed, (B, D) each, at the last items of x (B, T, D), where alone z is computed."""
        weights, biases = (each.split((self.sizes[0], sum(self.projected[1:]))) for each in (
            self.in_projection.weight, self.in_projection.bias))  # fmt: skip
        inputs, steps = F.linear(x, weights[1], biases[1]).split(self.projected[1:], dim=-1)
        mixed, _ = self._scan(inputs, steps, None, None, rates)
        last = at_last(x, lengths)
        return last, self._leave(at_last(mixed, lengths), F.linear(last, weights[0], biases[0]))

    def initial_state(self, batch: int) -> State:
        """Return the convolution's window (B, K - 1, I + 2N) and S (B, heads, N, P) before the first step: zeros."""
        weight, (width, states, _) = self.convolution_weight, self.sizes
        heads = self.projected[2]
        return (
            weight.new_zeros(batch, len(weight) - 1, weight.shape[1]),
            weight.new_zeros(batch, heads, states, width // heads),
        )

    def _scan(
        self, inputs: Tensor, steps: Tensor, state: State | None, lengths: Tensor | None, rates: Tensor | None
    ) -> tuple[Tensor, State]:
        """Return y (B, T, I) of p (B, T, I + 2N) and δ (B, T, heads), and the state after them."""
        window, hidden = state if state is not None else (None, None)
        convolved, window = causal_convolution(inputs, self.convolution_weight, self.convolution_bias, window, lengths)
        channels, drive, readout = self.activation(convolved).split(self.sizes, dim=-1)
        deltas = F.softplus((steps if rates is None else steps * rates) + self.step_bias)
        if lengths is not None:  # a step of 0 leaves the state as it is
            counts = torch.arange(deltas.shape[1], device=deltas.device) < lengths.unsqueeze(1)
            deltas = deltas * counts.unsqueeze(2)
        heads = deltas.shape[2]
        values = channels.unflatten(-1, (heads, -1))
        query, key = (each.unsqueeze(2).expand(-1, -1, heads, -1) for each in (readout, drive))
        log_decay = deltas * -torch.exp(self.decay_log)
        mixed, hidden = matrix_scan(query, key, deltas.unsqueeze(3) * values, log_decay, hidden)
        return (mixed + self.skip.unsqueeze(1) * values).flatten(-2), (window, hidden)

    def _leave(self, mixed: Tensor, gate: Tensor) -> Tensor:
        """Gate, normalise and project: y and z (…, I) → (…, D)."""
        gated = mixed * F.silu(gate)
        size = (gated * gated).sum(dim=-1, keepdim=True) / gated.shape[-1]
        result: Tensor = self.out_projection(gated / torch.sqrt(size + self.norm_eps) * self.norm_weight)
        return result
