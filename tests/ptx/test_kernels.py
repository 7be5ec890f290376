"""What NVRTC makes of the CUDA sources computes what the reference does, in every form, type and layout of memory."""

import pytest
import torch

from tests.ptx.cases import DTYPES, LAYOUTS, PAIRS, cases
from tests.ptx.gpu import Emulation, emulated

FORMS = {
    "linear_scan": ("channels", "chunked"),
    "rg_lru": ("channels", "chunked"),
    "selective_scan": ("channels", "channels, shared", "chunked", "chunked, shared"),
}
FORMS_AND_TYPES = [(operator, form, dtype) for operator, dtype in PAIRS for form in FORMS[operator]]
# Enough for every kernel, and for every way through the gradient of the selective scan.
NORMALLY = [case for case in FORMS_AND_TYPES if case[1] not in ("channels, shared", "chunked")] + [
    case for case in FORMS_AND_TYPES if case[0] != "selective_scan" and case[1] == "chunked"
]
# Approximate instructions are documented to be off by up to two units in the last place ("Parallel Thread Execution
# ISA", ex2.approx).
ULPS = 2


def agree(
    operator: str,
    form: str,
    dtype: torch.dtype,
    lengths: tuple[int, ...],
    emulation: Emulation,
    layouts: tuple[str, ...] = LAYOUTS,
) -> None:
    """Results and gradients are the reference's in double precision, with the strides of tensors kept to the kernel."""
    with emulated(form, emulation):
        for T in lengths:
            for case in cases(operator, dtype, T, layouts):
                case.check()


@pytest.mark.parametrize(("operator", "form", "dtype"), NORMALLY, ids=str)
def test_equals_the_reference(operator: str, form: str, dtype: torch.dtype) -> None:
    agree(operator, form, dtype, (1,), Emulation(), LAYOUTS[:1])
    agree(operator, form, dtype, (31,), Emulation())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("operator", "form", "dtype"), FORMS_AND_TYPES, ids=str)
def test_equals_the_reference_on_every_architecture(operator: str, form: str, dtype: torch.dtype, arch: str) -> None:
    agree(operator, form, dtype, (1, 2, 31, 63, 200), Emulation(arch))


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "form", "dtype"), FORMS_AND_TYPES, ids=str)
def test_equals_the_reference_with_every_approximation_off(operator: str, form: str, dtype: torch.dtype) -> None:
    agree(operator, form, dtype, (2, 31, 63), Emulation(ulps=ULPS))


@pytest.mark.parametrize("operator", DTYPES)
def test_threads_do_not_race(operator: str) -> None:
    agree(operator, FORMS[operator][-1], torch.float32, (2, 17), Emulation(races=True), LAYOUTS[:2])


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "form", "dtype"), FORMS_AND_TYPES, ids=str)
def test_threads_do_not_race_in_any_type(operator: str, form: str, dtype: torch.dtype) -> None:
    agree(operator, form, dtype, (2, 31, 63), Emulation(races=True))
