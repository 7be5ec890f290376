"""What a launch costs in Python, what it hands to the driver, and what can be captured in a graph. No GPU is needed."""

import threading
import time
from collections.abc import Callable

import pytest
import torch

from seqbench.ops.cuda import launch as gpu
from tests.ops.cuda_driver import OnGPU, driven

MOST_SECONDS = 10e-6


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
