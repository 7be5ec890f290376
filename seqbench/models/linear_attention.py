"""The linear attention layer that LinRec and GLINT-RU have in common.

    a = LayerNorm(W_o · linear attention(W_q x + b_q, W_k x + b_k, W_v x + b_v) + b_o + x)

Shapes: B batch, T time, D width, E = D / heads.
"""

from torch import Tensor, nn

from seqbench.models.base import at_last
from seqbench.ops.dropout import Dropout
from seqbench.ops.linear_attention import linear_attention, linear_attention_step


class LinearAttention(nn.Module):
    """Multi-head linear attention with output projection, residual and LayerNorm."""

    def __init__(self, hidden_size: int, *, heads: int, dropout: float, causal: bool, norm_eps: float) -> None:
        super().__init__()
        D = hidden_size
        self.heads = heads
        self.causal = causal
        self.query = nn.Linear(D, D)
        self.key_value = nn.Linear(D, 2 * D)  # rows: keys, values
        self.out = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=norm_eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor | None, lengths: Tensor | None = None) -> Tensor:
        """Attend from every position, or from one of each row.

        Args:
            x: (B, T, D).
            valid: (B, T) bool, which positions are seen; all if None.
            lengths: (B,) of the rows, if the last item of each is the only position to attend from.

        Returns:
            (B, T, D), or (B, D) with `lengths`.
        """
        if lengths is None:
            return self._attend(x, x, valid, causal=self.causal)
        asking = at_last(x, lengths).unsqueeze(1)
        return self._attend(asking, x, valid, causal=False).squeeze(1)  # all items are up to the last one

    def initial_state(self, batch: int) -> Tensor:
        """The sum of k̂ᵀ v over no positions: zeros (B, heads, E, E)."""
        weight = self.out.weight
        E = len(weight) // self.heads
        return weight.new_zeros(batch, self.heads, E, E)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One position of the causal form: x (B, D) → (B, D), and the sum with it."""
        (query,) = self._split(self.query(x), 1)
        key, value = self._split(self.key_value(x), 2)
        attended, state = linear_attention_step(query, key, value, state)
        return self.norm(self.out(attended.flatten(-2)) + x), state

    def _attend(self, asking: Tensor, x: Tensor, valid: Tensor | None, *, causal: bool) -> Tensor:
        (query,) = self._split(self.query(asking), 1)
        key, value = self._split(self.key_value(x), 2)
        attended = linear_attention(query, key, value, causal=causal, valid=valid)
        return self.norm(self.dropout(self.out(attended.flatten(-2))) + asking)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(…, parts · D) → that many (…, heads, E)."""
        return projected.unflatten(-1, (parts, self.heads, -1)).unbind(-3)
