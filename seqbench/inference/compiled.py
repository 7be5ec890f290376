"""The step of an incremental model without Python: written down once (program.py), run by kernels/step.cpp.

At batch 1 a step of torch operations is nearly all interpreter. torch.jit.trace with freezing took 0.29 ms where the
step itself took 0.79 on the same busy core; AOTInductor 0.24 (0.18 without torch's own wrapper), and 190 s to compile
on two cores; a program takes about a second, and is run from memory.

Shapes: B batch, D width.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from seqbench.inference.program import PORT, Unsupported, record
from seqbench.models.base import IncrementalModel, State
from seqbench.ops.backends import use
from seqbench.ops.cpu import native
from seqbench.ops.cpu.binding import INTEGER, POINTER

KERNEL = "step"
LARGEST_BATCH = 8  # rows that are run one after the other; of more, torch's products of matrices are faster
TRIALS = 3  # steps that are compared with the model's own before a program is believed
TOLERANCE = 1e-5  # of the largest number


@dataclass(frozen=True)
class Step:
    """How a model appends an item."""

    call: Callable[..., tuple[Tensor, State]]  # as IncrementalModel.step
    seconds: float  # that it took to make
    note: str | None  # why it is the model's own step; None: it is compiled


def compile_step(model: IncrementalModel) -> Step:
    """Return the fastest step of a model in evaluation mode, whose weights stay as they are.

    Batches of more than LARGEST_BATCH histories go through the model's own step, and so does a model that is not
    float32 on the CPU or whose step cannot be written down; `note` says why.
    """
    began = time.perf_counter()
    try:
        if model.config.uses_times:
            raise Unsupported("the numbers of a program are too coarse for times")
        with torch.inference_mode(False):  # in which torch does not take operations apart
            compiled = _CompiledStep(model)
            compiled.check()
    except Unsupported as reason:
        return Step(model.step, time.perf_counter() - began, f"The step is not compiled: {reason}.")
    return Step(compiled, time.perf_counter() - began, None)


class _CompiledStep:
    def __init__(self, model: IncrementalModel) -> None:
        self.model = model
        library = native.load(KERNEL)
        if library.code is None:
            raise Unsupported(str(library.reason))
        if any(each.device.type != "cpu" for each in model.state_dict().values()):
            raise Unsupported("the model is not on the CPU")
        items, state = torch.ones(1, dtype=torch.int64), model.initial_state(1)
        with use("reference"):  # which consists of torch operations
            self.program = record(self._flat, (items, *state), int(library.code.step_panel()))
        instructions = self.program.instructions()
        ports = np.array(self.program.ports, dtype=PORT)
        array = self.program.array()
        self.parts = [(each.shape[1:], each.dtype) for each in state]
        self.width = model.item_weights().shape[1]
        self.held = instructions, ports, array  # whose addresses the kernel is given
        self.lock = threading.Lock()  # of the array
        inputs, outputs = 1 + len(state), 1 + len(state)
        self.addresses = POINTER * (inputs + outputs)
        function = library.code.step_run
        function.argtypes = (POINTER, INTEGER, POINTER, POINTER, INTEGER, INTEGER, POINTER, INTEGER)
        function.restype = INTEGER
        self.run = partial(
            function, instructions.ctypes.data, len(instructions), array.data_ptr(), ports.ctypes.data, inputs, outputs
        )

    def _flat(self, items: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        outputs, after = self.model.step(items, state)
        return outputs, *after

    def __call__(self, items: Tensor, state: State) -> tuple[Tensor, State]:
        B = len(items)
        if B > LARGEST_BATCH:
            return self.model.step(items, state)
        given = [items.contiguous(), *(each.contiguous() for each in state)]
        outputs = torch.empty(B, self.width)
        after = tuple(torch.empty(B, *shape, dtype=dtype) for shape, dtype in self.parts)
        memory = self.addresses(*[each.data_ptr() for each in (*given, outputs, *after)])
        with self.lock:
            wrong = self.run(memory, B)
        if wrong:
            return self.model.step(items, state)  # which says what is wrong
        return outputs, after

    def check(self) -> None:
        """Raise Unsupported unless some steps give what the model gives."""
        generator = torch.Generator().manual_seed(0)
        expected = state = self.model.initial_state(2)
        with torch.no_grad():
            for _ in range(TRIALS):
                items = torch.randint(1, self.model.items + 1, (2,), generator=generator)
                ours, state = self(items, state)
                theirs, expected = self.model.step(items, expected)
                for one, other in zip((ours, *state), (theirs, *expected), strict=True):
                    if not float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max() + 1):
                        raise Unsupported("it does not give what the model gives")
