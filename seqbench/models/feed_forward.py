"""The feed-forward layer that ends a block of nearly every model here.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin. "Attention Is All You Need", NeurIPS 2017,
sections 3.1 and 3.3, the activation aside.
"""

from collections.abc import Callable

from torch import Tensor, nn

from seqbench.ops.dropout import Dropout


class FeedForward(nn.Module):
    """LayerNorm(W₂ activation(W₁ x + b₁) + b₂ + x), position by position."""

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        activation: Callable[[Tensor], Tensor],
        *,
        dropout: float,
        inner_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.inner = nn.Linear(hidden_size, inner_size)  # W₁
        self.outer = nn.Linear(inner_size, hidden_size)  # W₂
        self.norm = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.inner_dropout = Dropout(inner_dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        inner = self.inner_dropout(self.activation(self.inner(x)))
        result: Tensor = self.norm(self.dropout(self.outer(inner)) + x)
        return result
