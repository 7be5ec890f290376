"""Parse the words of the command line into what is to be timed."""

from dataclasses import dataclass

import torch

from seqbench.cli.words import split_words as words
from seqbench.errors import UsageError, unknown_name
from seqbench.ops.backends import BACKENDS
from seqbench.speed.choices import HELP, WORKLOADS
from seqbench.speed.peers import PEERS
from seqbench.speed.workloads import Shape, Workload

EXAMPLE = "For example --shapes 128x200x128,1x16384x128; selective_scan takes BxTxDxN, such as 16x200x128x32."
REFERENCE = "reference"  # slow by design: timed only if it is named


@dataclass(frozen=True)
class Request:
    """What to time, on which device, for how long."""

    device: torch.device
    dtype: torch.dtype
    shapes: dict[str, tuple[Shape, ...]]  # by workload
    competitors: tuple[str, ...]  # backends and peers
    seconds: float  # for each competitor, pass and shape


def parse(
    device: str,
    dtype: str,
    operators: str | None,
    shapes: str | None,
    competitors: str | None,
    seconds: float,
) -> Request:
    """Check the words and look up what they name.

    Args:
        device: as torch names it.
        dtype: name of a real dtype of torch, of `choices.Dtype`.
        operators: comma-separated workloads; all if None.
        shapes: comma-separated, replacing the default ones of the operators that they fit: those with the axes of the
            first such operator, so that three sizes are BxTxD unless the loss is named first.
        competitors: comma-separated backends and peers; all but the reference if None.
        seconds: for each competitor, pass and shape.

    Raises:
        UsageError: a word is unknown, or a shape fits no operator.
    """
    known = [*BACKENDS, *PEERS]
    names = [name for name in known if name != REFERENCE] if competitors is None else words(competitors)
    for name in names:
        if name not in known:
            raise unknown_name("Backend", name, known, HELP)
    if not names:
        raise UsageError(f"--backends names no backend: '{competitors}'.", hint=f"One of {', '.join(known)}.")
    chosen = _workloads(operators)
    target = torch.device(device)
    return Request(target, getattr(torch, dtype), _shapes(shapes, chosen, target.type), tuple(names), seconds)


def _workloads(operators: str | None) -> list[Workload]:
    names = list(WORKLOADS) if operators is None else words(operators)
    if not names:
        raise UsageError(f"--operators names no operator: '{operators}'.", hint=f"One of {WORKLOADS.words()}.")
    return [WORKLOADS[name] for name in names]


def _shapes(text: str | None, workloads: list[Workload], device: str) -> dict[str, tuple[Shape, ...]]:
    given = [] if text is None else [_shape(word) for word in words(text)]
    if text is not None and not given:
        raise UsageError(f"--shapes names no shape: '{text}'.", hint=EXAMPLE)
    chosen: dict[str, tuple[Shape, ...]] = {workload.name: () for workload in workloads}
    for shape in given:
        fitting = [workload for workload in workloads if workload.fits(shape)]
        if not fitting:
            takers = ", ".join(f"{workload.name} ({workload.axes})" for workload in workloads)
            raise UsageError(f"--shapes: {'x'.join(map(str, shape))} does not fit {takers}.", hint=EXAMPLE)
        for workload in fitting:
            # BxTxD and NxDxV cannot be told apart, and a good size for one is a poor one for the other.
            if workload.axes == fitting[0].axes:
                chosen[workload.name] += (shape,)
    return {workload.name: chosen[workload.name] or workload.shapes[device] for workload in workloads}


def _shape(word: str) -> Shape:
    try:
        shape = tuple(int(number) for number in word.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--shapes takes sizes such as 128x200x128, not '{word}'.", hint=EXAMPLE)
    return shape
