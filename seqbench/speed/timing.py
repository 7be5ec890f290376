"""Timing of competitors that take turns.

Noise on a shared machine comes in spells: another process, a lower clock. So competitors take turns, in rounds of
random order, and what is compared is time within a round, where both sides had the same spell; the ratio that is
reported is the median over the rounds. The ratio of the best times asks for one quiet moment on either side, which a
short call finds and a long one does not: with the cores taken by others it varied six times as much from one
measurement to the next (a scan of (128, 200, 128) against its copy, ten measurements of half a second); on a machine
that was nearly quiet, and for shapes that fit the caches, it varied less. The best times are in the JSON, too.

A turn is one call, or as many as fill TURN_SECONDS; its sample is the median of its calls. Results are allocated by
every call and dropped after it, as in a model. On a CPU a call that is repeated finds in the caches what the one before
left there, so that what fits them is timed there, copies too; on a GPU the cache is overwritten before each call.
"""

import random
import statistics
from collections.abc import Callable, Mapping

import torch

from seqbench import timing
from seqbench.device import Call

Sampler = Callable[[Call, int], float]

MINIMUM_ROUNDS = 5
TURN_SECONDS = 0.01


def sampler(device: torch.device) -> Sampler:
    """Return a function from (call, number of calls) to the median seconds of a call on this device.

    The calls are queued, and a GPU's cache is overwritten before each.
    """
    return lambda call, calls: statistics.median(timing.sample(call, device, calls=calls, queue=True, evict=True))


def compete(calls: Mapping[str, Call], baseline: str, sample: Sampler, seconds: float) -> dict[str, list[float]]:
    """Time calls in rounds until each has had `seconds`, and MINIMUM_ROUNDS turns at least.

    Whoever has had both leaves, and the others go on with the baseline.

    Args:
        calls: by name, warmed up.
        baseline: the name that takes part in all rounds, if it is among them.
        sample: what `sampler` gave.
        seconds: time for each.

    Returns:
        Seconds per call, one for each round from the first to the last that a call took part in: entries of the
        same index are of the same round.
    """
    order = random.Random(0)  # noqa: S311 - an order of turns, not a secret
    samples: dict[str, list[float]] = {name: [] for name in calls}
    repeats = {name: _calls_in_a_turn(call, sample) for name, call in calls.items()}
    spent = dict.fromkeys(calls, 0.0)

    def wants_more(name: str) -> bool:
        return len(samples[name]) < MINIMUM_ROUNDS or spent[name] < seconds

    while going := [name for name in calls if wants_more(name)]:
        names = {*going} | ({baseline} & calls.keys())
        for name in order.sample(sorted(names), len(names)):
            value = sample(calls[name], repeats[name])
            samples[name].append(value)
            spent[name] += value * repeats[name]
    return samples


def _calls_in_a_turn(call: Call, sample: Sampler) -> int:
    """Count the calls of a turn by the best of a few: one that was interrupted says little."""
    tried: list[float] = []
    while len(tried) < MINIMUM_ROUNDS and sum(tried) < TURN_SECONDS:
        tried.append(sample(call, 1))
    return max(1, round(TURN_SECONDS / max(min(tried), 1e-9)))
