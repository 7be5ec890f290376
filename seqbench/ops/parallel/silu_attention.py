"""HSTU's attention as a graph for every length: the reference has no loop."""

from seqbench.ops.reference.silu_attention import forward

__all__ = ["forward"]
