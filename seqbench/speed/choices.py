"""What `seqbench kernels` can be asked for, known without importing torch."""

from typing import TYPE_CHECKING, Literal

from seqbench.registry import Registry

if TYPE_CHECKING:
    from seqbench.speed.workloads import Workload

HELP = "seqbench kernels --help"
Dtype = Literal["float32", "float64", "bfloat16", "float16"]

WORKLOADS: "Registry[Workload]" = Registry(
    "Operator",
    {
        "linear_scan": "seqbench.speed.workloads:LINEAR_SCAN",
        "linear_scan_complex": "seqbench.speed.workloads:LINEAR_SCAN_COMPLEX",
        "selective_scan": "seqbench.speed.workloads:SELECTIVE_SCAN",
        "matrix_scan": "seqbench.speed.workloads:MATRIX_SCAN",
        "silu_attention": "seqbench.speed.workloads:SILU_ATTENTION",
        "rg_lru": "seqbench.speed.workloads:RG_LRU",
        "linear_cross_entropy": "seqbench.speed.workloads:LINEAR_CROSS_ENTROPY",
        "rank_counts": "seqbench.speed.workloads:RANK_COUNTS",
        "top_k": "seqbench.speed.workloads:TOP_K",
    },
    HELP,
)
