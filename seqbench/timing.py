"""The one way to time a call: latency of models, kernels of operators.

On a CPU the clock is read between the calls. On a GPU events on the current stream are: a call is timed from the moment
that its first kernel could have started, the time to launch it included whenever the GPU has nothing else to do, so
`queue=False` waits before each call. Kernels are timed queued, which hides the launches as a busy GPU does.
"""

import time

import torch

from seqbench.device import Call, Clock, kind, synchronize


def sample(
    call: Call,
    device: torch.device,
    *,
    calls: int = 1,
    queue: bool = False,
    evict: bool = False,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Time a call several times.

    Args:
        calls: how often.
        queue: submit all calls to a GPU before waiting for the first one.
        evict: overwrite a GPU's second-level cache before each call, so that its inputs come from memory.
        clock: seconds; only for devices that are timed by a clock.

    Returns:
        Seconds of each call.
    """
    timer = kind(device)
    if queue:
        return timer.seconds(call, calls, device, evict=evict, clock=clock)
    taken: list[float] = []
    for _ in range(calls):
        synchronize(device)
        taken += timer.seconds(call, 1, device, evict=evict, clock=clock)
    return taken
