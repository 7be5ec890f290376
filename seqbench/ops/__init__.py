"""Operators of efficient sequential models, each computed by the fastest backend that can run.

    from seqbench.ops import linear_cross_entropy, linear_scan, matrix_scan, rank_counts, rg_lru
    from seqbench.ops import selective_scan, silu_attention, top_k

Importing the package imports neither torch nor an operator; nothing is compiled before it is first called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqbench.ops.functions.linear_cross_entropy import linear_cross_entropy
    from seqbench.ops.functions.linear_scan import linear_scan
    from seqbench.ops.functions.matrix_scan import matrix_scan
    from seqbench.ops.functions.rank_counts import rank_counts
    from seqbench.ops.functions.rg_lru import rg_lru
    from seqbench.ops.functions.selective_scan import selective_scan
    from seqbench.ops.functions.silu_attention import silu_attention
    from seqbench.ops.functions.top_k import top_k

__all__ = [
    "linear_cross_entropy",
    "linear_scan",
    "matrix_scan",
    "rank_counts",
    "rg_lru",
    "selective_scan",
    "silu_attention",
    "top_k",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = globals()[name] = getattr(import_module(f"seqbench.ops.functions.{name}"), name)
    return function
