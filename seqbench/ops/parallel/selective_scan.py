"""Mamba's scan in a fixed number of operations. Shapes: B batch, T time, D channels, N states per channel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.functions.selective_scan import Arguments
from seqbench.ops.parallel import scan


def forward(given: Arguments) -> tuple[Tensor, Tensor]:
    """Return outputs (B, T, D) and the final state (B, D, N); the states of all steps are in memory at once."""
    deltas = F.softplus(given.deltas) if given.delta_softplus else given.deltas
    drive = (deltas * given.inputs).unsqueeze(-1) * given.drive.unsqueeze(2)
    states = scan(torch.exp(deltas.unsqueeze(-1) * given.decay), drive, given.initial_state)
    outputs = (states * given.readout.unsqueeze(2)).sum(dim=-1)
    if given.skip is not None:
        outputs = outputs + given.skip * given.inputs
    if given.gate is not None:
        outputs = outputs * F.silu(given.gate)
    return outputs, states[:, -1]
