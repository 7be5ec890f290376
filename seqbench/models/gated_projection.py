"""The projection that opens a block of Mamba's kind: what goes through the recurrence, and the gate behind it.

    [p ; z] = W x

Gu, Dao. "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, figure 3.

Shapes: B batch, T time, D width, H channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from seqbench.models.base import at_last


class GatedProjection(nn.Linear):
    """p and z, two halves of one product; z only at the last item if nothing else is read out."""

    def __init__(self, hidden_size: int, channels: int) -> None:
        super().__init__(hidden_size, 2 * channels, bias=False)  # rows: p, z

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """p (B, T, H) and z of x (B, T, D): z (B, T, H), or (B, H) at the last item of rows of lengths (B,)."""
        if lengths is None:
            p, z = super().forward(x).chunk(2, dim=-1)
            return p, z
        of_p, of_z = self.weight.chunk(2)
        return F.linear(x, of_p), F.linear(at_last(x, lengths), of_z)
