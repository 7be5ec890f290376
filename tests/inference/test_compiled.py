"""The compiled step: it gives what the model gives, and says so where there is none."""

import pytest
import torch
from torch import Tensor

from seqbench.inference.compiled import LARGEST_BATCH, compile_step
from seqbench.inference.program import Unsupported, record
from seqbench.models.base import IncrementalModel
from seqbench.ops.cpu import native
from tests.models.forms import part, times_for
from tests.models.test_contract import INCREMENTAL, ITEMS, MAX_LEN, make

pytestmark = pytest.mark.skipif(native.load("step").code is None, reason="there is no C++ compiler")


@pytest.mark.parametrize("form", INCREMENTAL)
def test_compiled_steps_give_what_the_model_gives(form: str) -> None:
    model = make(form)
    assert isinstance(model, IncrementalModel)
    with torch.inference_mode():  # as where an item is appended
        step = compile_step(model)
    assert (step.note is not None) == model.state_grows, step.note  # whose buffers are written at places that differ
    for batch, steps in ((1, 2), (LARGEST_BATCH + 1, 2), (3, MAX_LEN)):
        ours = theirs = model.initial_state(batch)
        with torch.no_grad():
            for _ in range(steps):
                items = torch.randint(1, ITEMS + 1, (batch,))
                times = part(times_for(model, items.unsqueeze(1)), slice(None), 0)
                found, ours = step.call(items, ours, *times)
                expected, theirs = model.step(items, theirs, *times)
                for one, other in zip((found, *ours), (expected, *theirs), strict=True):
                    assert one.dtype == other.dtype
                    assert (one - other).abs().max() <= 2e-6 * max(1.0, float(other.abs().max()))
    if model.ends_at_max_len:
        with pytest.raises(ValueError, match=f"no position for item {MAX_LEN + 1}"):
            step.call(items, ours, *times)


def test_a_step_on_other_numbers_than_float32_stays_the_model_s_own() -> None:
    model = make("lrurec").double()
    assert isinstance(model, IncrementalModel)
    step = compile_step(model)
    assert step.call == model.step
    assert "not compiled: a tensor is torch.complex128" in str(step.note)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x * 2 if x.sum() > 0 else x, "sum is not known|is_nonzero|_local_scalar_dense"),
        (lambda x: x.cumsum(0), "cumsum is not known"),
        (lambda x: torch.zeros(1, 3).add_(x), "a constant is changed"),
        (lambda x: torch.add(x, x, alpha=2), "add with a factor"),
    ],
)
def test_what_a_program_cannot_say_is_refused(function: object, reason: str) -> None:
    def changed(x: Tensor) -> list[Tensor]:
        return [function(x)]  # type: ignore[operator]

    with pytest.raises(Unsupported, match=reason):
        record(changed, [torch.ones(1, 3)], panel=16)
