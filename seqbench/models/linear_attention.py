"""The linear attention layer that LinRec and GLINT-RU have in common.

    a = LayerNorm(W_o · linear attention(W_q x + b_q, W_k x + b_k, W_v x + b_v) + b_o + x)

Shapes: B batch, T time, D width, E = D / heads.
"""

from torch import Tensor, nn

from seqbench.models.base import State, at_last
from seqbench.models.stack import Block
from seqbench.ops.dropout import Dropout
from seqbench.ops.linear_attention import causal_linear_attention, linear_attention


class LinearAttention(Block):
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

    def mix(self, x: Tensor, valid: Tensor | None = None, state: State | None = None) -> tuple[Tensor, State]:
        """Attend from every position.

        Args:
            x: (B, T, D).
            valid: (B, T) bool, which positions are seen; all if None.
            state: (B, heads, E, E), the sum of k̂ᵀ v over the positions before x, for the causal form.

        Returns:
            (B, T, D), not yet projected, and the sum with x if there was a state.
        """
        (query,) = self._split(self.query(x), 1)
        key, value = self._split(self.key_value(x), 2)
        if not self.causal:
            return linear_attention(query, key, value, causal=False, valid=valid).flatten(-2), ()
        before = None if state is None else state[0]
        attended, after = causal_linear_attention(query, key, value, before, valid=valid)
        return attended.flatten(-2), () if state is None else (after,)

    def mix_last(self, x: Tensor, lengths: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from the last items alone, which see all others in either form: x (B, T, D) → (B, D) each."""
        last = at_last(x, lengths)
        (query,) = self._split(self.query(last.unsqueeze(1)), 1)
        key, value = self._split(self.key_value(x), 2)
        return last, linear_attention(query, key, value, causal=False, valid=valid).flatten(-2).squeeze(1)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Project, add and normalise: (…, D) each → (…, D)."""
        result: Tensor = self.norm(self.dropout(self.out(mixed)) + x)
        return result

    def initial_state(self, batch: int) -> State:
        """Return the sum of k̂ᵀ v over no positions: zeros (B, heads, E, E)."""
        weight = self.out.weight
        E = len(weight) // self.heads
        return (weight.new_zeros(batch, self.heads, E, E),)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (…, parts · D) into that many (…, heads, E)."""
        result: tuple[Tensor, ...] = projected.unflatten(-1, (parts, self.heads, -1)).unbind(-3)
        return result
