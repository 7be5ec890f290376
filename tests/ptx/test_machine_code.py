"""What ptxas makes of the CUDA kernels keeps to what the launching code and the notes on them assume."""

import pytest
import torch

from seqbench.ops.cuda import linear_scan, rg_lru, selective_scan
from tests.ptx import machine_code
from tests.ptx.cases import OPERATORS, PAIRS
from tests.ptx.machine_code import LEAST_LOADS, Loop, block_of

# Bytes that a thread has asked for before it uses the first of them, at least, in every loop that reads several steps
# at a time; and warps that fit on a multiprocessor.
IN_FLIGHT = {
    **{"linear_scan_forward": 64, "linear_scan_forward_reduce": 64},  # half of it with constant gates
    **{"linear_scan_backward": 112, "linear_scan_backward_reduce": 64},
    **{"linear_scan_forward_carry": 120, "linear_scan_backward_carry": 120},
    **{"rg_lru_forward": 112, "rg_lru_forward_reduce": 112, "rg_lru_backward": 112, "rg_lru_backward_reduce": 120},
    **{"rg_lru_forward_carry": 120, "rg_lru_backward_carry": 120},
    **{"selective_scan_forward": 150, "selective_scan_forward_reduce": 80},
    **{"selective_scan_backward": 80, "selective_scan_backward_reduce": 88},
    **{"selective_scan_forward_carry": 120, "selective_scan_backward_carry": 120},
    **{"linear_cross_entropy_statistics": 64, "linear_cross_entropy_gradient": 64},  # half without a bias
}
WARPS = {
    **dict.fromkeys(IN_FLIGHT, 18),
    **{"rg_lru_backward": 16, "selective_scan_forward": 16, "selective_scan_backward": 12},
    **{"linear_cross_entropy_statistics": 32, "linear_cross_entropy_gradient": 32},
}


# Bytes of registers that do not fit.
SPILLED = {("selective_scan_backward", "float16", "sm_80"): 8}


@pytest.fixture(autouse=True)
def _tools() -> None:
    machine_code.need()


def passes(source: str, kernel: str, element: str = "float32") -> list[Loop]:
    loops = machine_code.read(source, element)[f"{source}_{kernel}"].loops
    return [loop for loop in loops if loop.loads >= LEAST_LOADS]


@pytest.mark.parametrize("source", OPERATORS)
def test_loads_are_under_way_together_and_enough_warps_fit(source: str) -> None:
    for name, code in machine_code.read(source, "float32").items():
        loops = [loop for loop in code.loops if loop.loads >= LEAST_LOADS]
        assert loops, name
        assert min(loop.bytes_in_flight for loop in loops) >= IN_FLIGHT[name], name
        assert code.resident_warps(block_of(name)) >= WARPS[name], name
        assert code.stack == code.local == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("element", ["bfloat16", "float16"])
@pytest.mark.parametrize("source", ["linear_scan", "rg_lru"])
def test_half_precision_has_as_many_bytes_under_way(source: str, element: str) -> None:
    for name, code in machine_code.read(source, element).items():
        loops = [loop for loop in code.loops if loop.loads >= LEAST_LOADS]
        assert min(loop.bytes_in_flight for loop in loops) >= IN_FLIGHT[name], name
        assert code.resident_warps(block_of(name)) >= 12, name


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("source", "dtype"), PAIRS, ids=str)
def test_every_source_compiles_without_spilling(source: str, dtype: torch.dtype, arch: str) -> None:
    for name, code in machine_code.read(source, str(dtype).removeprefix("torch."), arch).items():
        allowed = SPILLED.get((name, str(dtype).removeprefix("torch."), arch), 0)
        assert code.stack + code.local <= allowed, name


@pytest.mark.parametrize("kernel", ["forward", "forward_reduce", "backward", "backward_reduce"])
def test_the_model_of_cutting_knows_how_many_instructions_a_step_takes(kernel: str) -> None:
    """Within a quarter: it decides between forms that differ by more."""
    for source, work in (("linear_scan", linear_scan.WORK[kernel, False]), ("rg_lru", rg_lru.WORK[kernel])):
        steps = 32 // work.reads
        (loop,) = (loop for loop in passes(source, kernel) if loop.loads == steps * work.reads)
        assert work.instructions == pytest.approx(loop.instructions / steps, rel=0.25), source
    if kernel != "backward":  # whose last loop has branches of its own
        (loop,) = passes("selective_scan", kernel)
        assert selective_scan.INSTRUCTIONS[kernel] == pytest.approx(loop.instructions / 2, rel=0.25)
