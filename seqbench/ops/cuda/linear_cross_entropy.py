"""Cross entropy on a GPU: the blocks of the PyTorch backend, whose products cuBLAS computes.

The three products are nearly all of the work, and a kernel of ours would not multiply matrices faster.
"""

from seqbench.ops.pytorch.linear_cross_entropy import forward

__all__ = ["forward"]
