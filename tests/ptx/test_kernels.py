"""What NVRTC makes of the CUDA sources computes what the reference does, in every form, type and layout of memory."""

from collections.abc import Iterable

import pytest
import torch

from tests.ptx import machine
from tests.ptx.cases import OPERATORS, PAIRS, Case, all_cases, cases, looked_at_for_races, remainders
from tests.ptx.gpu import Emulation, emulated

# Approximate instructions are documented to be off by up to two units in the last place ("Parallel Thread Execution
# ISA", ex2.approx).
ULPS = 2


def agree(problems: Iterable[Case], dtype: torch.dtype, emulation: Emulation) -> None:
    """Results and gradients are the reference's in double precision, with the strides of tensors kept to the kernel."""
    for case in problems:
        with emulated(case.form, emulation):
            case.check(dtype)


@pytest.mark.parametrize(("operator", "dtype"), PAIRS, ids=str)
def test_equals_the_reference(operator: str, dtype: torch.dtype) -> None:
    emulation = Emulation()
    agree(cases(operator), dtype, emulation)
    element = str(dtype).removeprefix("torch.")
    assert emulation.launches.keys() == machine.module(operator, element).keys()


@pytest.mark.parametrize("operator", OPERATORS)
def test_equals_the_reference_whatever_remains_of_a_pass(operator: str) -> None:
    agree(remainders(operator), torch.float32, Emulation())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_90", "sm_100"])
@pytest.mark.parametrize(("operator", "dtype"), PAIRS, ids=str)
def test_equals_the_reference_in_all_combinations(operator: str, dtype: torch.dtype, arch: str) -> None:
    agree(all_cases(operator, (2, 31, 63, 200)), dtype, Emulation(arch))


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "dtype"), PAIRS, ids=str)
def test_a100_runs_the_instructions_of_an_h100(operator: str, dtype: torch.dtype) -> None:
    """So what has been tested for the one has been for the other."""
    element = str(dtype).removeprefix("torch.")
    old, new = (machine.ptx(operator, element, arch).splitlines() for arch in ("sm_80", "sm_90"))
    assert [line for line in old if not line.startswith(".target")] == [
        line for line in new if not line.startswith(".target")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "dtype"), PAIRS, ids=str)
def test_equals_the_reference_with_every_approximation_off(operator: str, dtype: torch.dtype) -> None:
    agree(all_cases(operator, (2, 63)), dtype, Emulation(ulps=ULPS))


@pytest.mark.parametrize("operator", OPERATORS)
def test_threads_do_not_race(operator: str) -> None:
    agree(looked_at_for_races(operator), torch.float32, Emulation(races=True))


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "dtype"), PAIRS, ids=str)
def test_threads_do_not_race_in_any_type(operator: str, dtype: torch.dtype) -> None:
    agree(cases(operator), dtype, Emulation(races=True))
