"""What a launch costs in Python, what it hands to the driver, and what can be captured in a graph. No GPU is needed."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from seqbench.ops.cuda import launch as gpu
from tests.ops.cuda_driver import OnGPU, driven
from tests.ops.test_cuda_kernels import differentiated
from tests.ptx.cases import OPERATORS, Case, cases, problem
from tests.ptx.gpu import Emulation, emulated

MOST_SECONDS = 10e-6
# What waits for the GPU, since its result is a number or a shape; copies between devices are looked at by device.
WAITING = {"_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "bincount"}


def test_a_launch_hands_addresses_integers_and_null_pointers_to_the_driver() -> None:
    tensor = torch.zeros(3)
    with driven() as driver:
        gpu.launch("s", "s_forward", OnGPU(tensor), threads=65, block=64, arguments=(tensor, None, 7, 0, -1))  # type: ignore[arg-type]
    assert driver.launches == [("s_forward_float32", 2, 64, (tensor.data_ptr(), 0, 7, 0, -1))]


def test_each_thread_makes_the_context_current_once() -> None:
    tensor = OnGPU(torch.zeros(3))

    def twice() -> None:
        for _ in range(2):
            gpu.launch("s", "s_forward", tensor, threads=1, block=64, arguments=())  # type: ignore[arg-type]

    with driven() as driver:
        twice()
        other = threading.Thread(target=twice)
        other.start()
        other.join()
    assert driver.made_current == [0, 0]
    assert len(driver.launches) == 4


def test_another_gpu_is_entered_for_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    class Entered:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            entered.append(self.index)

        def __exit__(self, *error: object) -> None:
            pass

    with driven() as driver:
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "device", Entered)
        gpu.launch("s", "s_forward", OnGPU(torch.zeros(3)), threads=1, block=64, arguments=())  # type: ignore[arg-type]
    assert entered == [0]
    assert len(driver.launches) == 1


def fastest(function: Callable[[], None]) -> float:
    """Processor seconds of a call; of several rounds the best, since other processes only make it longer."""
    rounds = []
    for _ in range(7):
        start = time.thread_time()
        for _ in range(200):
            function()
        rounds.append((time.thread_time() - start) / 200)
    return min(rounds)


@pytest.mark.slow  # it is processor time, but a busy machine's caches count
def test_a_launch_costs_little_python() -> None:
    """With as many arguments as the backward pass of the selective scan, the longest list."""
    tensor = torch.zeros(3)
    like, arguments = OnGPU(tensor), (*(tensor,) * 20, *(None,) * 4, *range(20))
    with driven():
        seconds = fastest(lambda: gpu.launch("s", "s_backward", like, threads=64, block=64, arguments=arguments))  # type: ignore[arg-type]
    assert seconds < MOST_SECONDS


class Recorded(TorchDispatchMode):
    """Note every operation of torch, and what memory its results have."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[str, list[tuple[Any, ...]]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]
        shapes = [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in tensors]
        self.operations.append((function.overloadpacket.__name__, shapes))
        return result


class Noted(Emulation):
    """Note what is launched: grids and the arguments that are no addresses, which a graph keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[Any, ...]] = []

    def launch(self, source: str, kernel: str, like: Tensor, *, threads: int, block: int, arguments: Any) -> None:
        numbers = [value if value is None or type(value) is int else "address" for value in arguments]
        self.notes.append((kernel, threads, block, numbers))
        super().launch(source, kernel, like, threads=threads, block=block, arguments=arguments)


@pytest.mark.parametrize(
    "case", [case for name, of in OPERATORS.items() for case in cases(name)[: len(of.forms)]], ids=str
)
def test_what_a_graph_captures_does_not_depend_on_values(case: Case) -> None:
    """Of two calls with other values, the launches, operations and allocations are the same, and none waits."""
    given = problem(case.operator, False, case.length, *case.sizes, *case.choices)
    calls = []
    changes: tuple[Callable[[Tensor], Tensor], ...] = (torch.clone, lambda tensor: tensor.flip(0))
    for change in changes:
        tensors = {name: change(tensor).float() for name, tensor in given.tensors.items()}
        options = {k: change(value) if isinstance(value, Tensor) else value for k, value in given.options.items()}
        cotangents = [tensor.float() for tensor in given.cotangents]
        noted = Noted()
        with emulated(case.form, noted), Recorded() as recorded:
            differentiated(given.function, tensors, cotangents, backend="cuda", **options)
        calls.append((noted.notes, recorded.operations))
    assert calls[0] == calls[1]
    names = {name for name, _ in calls[0][1]}
    assert not names & WAITING
    assert {"empty", "detach"} <= names
