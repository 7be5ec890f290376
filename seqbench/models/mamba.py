"""The Mamba block, for the models that are built on it.

Gu, Dao. "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, figure 3 and algorithm 2.
Official code: https://github.com/state-spaces/mamba (mamba_ssm/modules/mamba_simple.py), whose defaults and
initialisation these are.

    [p ; z] = W_in x
    c = silu(depthwise causal convolution of p)
    [r ; B ; C] = W_x c,   Δ = softplus(W_Δ r + b_Δ),   A = -exp(A_log)
    S[t] = exp(Δ[t]·A) ⊙ S[t-1] + (Δ[t]·c[t])·B[t]ᵀ
    out[t] = W_out ((S[t]·C[t] + D ⊙ c[t]) ⊙ silu(z[t]))

Shapes: B batch, T time, D width, H = expand · D channels, N states per channel, K width of the convolution.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import State, at_last
from seqbench.ops import selective_scan
from seqbench.ops.causal_convolution import causal_convolution

# softplus(b_Δ) starts log-uniform between these.
SMALLEST_STEP, LARGEST_STEP = 0.001, 0.1

# Of the models that are built on it: pulled towards zero, the decay A would not fade but approach -1, and the skip
# connection close.
NO_WEIGHT_DECAY = ("decay_log", "skip")


class Mamba(nn.Module):
    """Convolution, selective scan and gate between two projections. Causal."""

    def __init__(self, hidden_size: int, *, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        H = expand * hidden_size
        rank = math.ceil(hidden_size / 16)
        self.sizes = (rank, d_state, d_state)
        self.in_projection = nn.Linear(hidden_size, 2 * H, bias=False)  # rows: p, z
        bound = 1 / math.sqrt(d_conv)
        self.convolution_weight = nn.Parameter(torch.empty(d_conv, H).uniform_(-bound, bound))
        self.convolution_bias = nn.Parameter(torch.empty(H).uniform_(-bound, bound))
        self.parameters_projection = nn.Linear(H, sum(self.sizes), bias=False)  # rows: r, B, C
        self.step_projection = nn.Linear(rank, H)
        self.decay_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(H, 1))  # A_log
        self.skip = nn.Parameter(torch.ones(H))  # D of the paper
        self.out_projection = nn.Linear(H, hidden_size, bias=False)
        steps = torch.empty(H).uniform_(math.log(SMALLEST_STEP), math.log(LARGEST_STEP)).exp()
        with torch.no_grad():
            self.step_projection.weight.uniform_(-(rank**-0.5), rank**-0.5)
            self.step_projection.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus

    def mix(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix x (B, T, D) from its start, or from where `state` was left: (B, T, D), and the state after it.

        With `lengths` (B,) the state is that after so many positions, and later results mean nothing.
        """
        inputs, gate = self.in_projection(x).chunk(2, dim=-1)
        mixed, state = self._convolve_and_scan(inputs, gate, state, lengths)
        return self.out_projection(mixed), state

    def mix_last(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and what is mixed, (B, D) each, at the last items of x (B, T, D), where alone z is computed."""
        of_inputs, of_gate = self.in_projection.weight.chunk(2)
        mixed, _ = self._convolve_and_scan(F.linear(x, of_inputs), None, None, None)
        last = at_last(x, lengths)
        return last, self.out_projection(at_last(mixed, lengths) * F.silu(F.linear(last, of_gate)))

    def initial_state(self, batch: int) -> State:
        """Return the convolution's window (B, K - 1, H) and the scan's state (B, H, N) before the first step: zeros."""
        weight = self.decay_log
        H, states = weight.shape
        return weight.new_zeros(batch, len(self.convolution_weight) - 1, H), weight.new_zeros(batch, H, states)

    def _convolve_and_scan(
        self, inputs: Tensor, gate: Tensor | None, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        """Return (S·C + D ⊙ c) ⊙ silu(z) of p (B, T, H), ungated if z is None, and the state after it."""
        window, hidden = state if state is not None else (None, None)
        convolved, window = causal_convolution(inputs, self.convolution_weight, self.convolution_bias, window, lengths)
        convolved = F.silu(convolved)
        low, drive, readout = self.parameters_projection(convolved).split(self.sizes, dim=-1)
        deltas = self.step_projection(low)
        if lengths is not None:  # softplus makes 0 of it, a step of which leaves the state as it is
            padding = torch.arange(deltas.shape[1], device=deltas.device) >= lengths.unsqueeze(1)
            deltas = deltas.masked_fill(padding.unsqueeze(2), -torch.inf)
        mixed, hidden = selective_scan(
            convolved,
            deltas,
            -torch.exp(self.decay_log),
            drive,
            readout,
            self.skip,
            gate,
            hidden,
            delta_softplus=True,
        )
        return mixed, (window, hidden)
