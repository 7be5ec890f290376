"""The size of a model: parameters, and floating-point operations of one history and of one step.

Multiplications and additions of matrix products, attention, convolutions and scans are counted by their formulas,
scores of the whole catalogue included; element-wise functions, norms and look-ups are not. What is counted is a model,
not a machine: tensors have shapes and no numbers wherever a model can do without.
"""

import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from seqbench.measuring.latency import call, modes_of, state_bytes
from seqbench.models.base import Model, SequenceModel
from seqbench.ops.backends import AUTO, use
from seqbench.ops.operator import visible


class Size(TypedDict, total=False):
    """Counts; those of modes that a model does not have are absent."""

    parameters: int
    parameters_without_items: int  # those that there are for each item left out
    whole_flops: int  # of encoding and scoring one history
    step_flops: int  # of appending one item and scoring
    state_bytes: int  # of what is kept of one history


def size(build: Callable[[int], Model], length: int) -> Size:
    """Count a model that is trained by gradient.

    Args:
        build: makes one that can take histories of a length.
        length: of the history.
    """
    with torch.device("meta"):
        model = build(length)
    assert isinstance(model, SequenceModel)
    counts = [(each.numel(), each.dim() > 0 and len(each) == model.items + 1) for each in model.parameters()]
    found = Size(
        parameters=sum(count for count, _ in counts),
        parameters_without_items=sum(count for count, of_items in counts if not of_items),
    )
    found["whole_flops"] = _counted(build, length, partial(_flops, "whole"))
    if "step" in modes_of(model):
        found["step_flops"] = _counted(build, length, partial(_flops, "step"))
        found["state_bytes"] = _counted(build, length, state_bytes)
    return found


def _counted(build: Callable[[int], Model], length: int, count: Callable[[Model, Tensor], int]) -> int:
    """Count something of a model and a history (1, T), without numbers if the model can do without."""
    with use(AUTO):  # the backend of the cell need not know of tensors without numbers, and changes no count
        try:
            with torch.device("meta"):
                return count(build(length).eval(), torch.ones(1, length, dtype=torch.int64))
        except Exception:  # it looks at numbers, in whatever way; what is wrong with it is said below
            return count(build(length).eval(), torch.ones(1, length, dtype=torch.int64))


_FLAGS = threading.Lock()  # they are the whole process's: two that changed them at once would not put them back


def _flops(mode: str, model: Model, items: Tensor) -> int:
    with _FLAGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # leaving mkldnn.flags, torch speaks of GPUs that are not here
        # Attention of CPUs and oneDNN's recurrent layers have no formulas; what they are made of has.
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), visible():
            prepared = call(mode, model, items)
            with FlopCounterMode(display=False) as counter:
                prepared()
    return int(counter.get_total_flops())
