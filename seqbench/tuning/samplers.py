"""What is tried next. A sampler computes it from the space, a seed and what came of the trials so far, and from nothing
else: the same search proposes the same settings, whether it is run at once, killed and repeated, or divided.

`sobol` spreads trials evenly over the space (Sobol 1967, scrambled as by Owen). Its trials are known beforehand.
`tpe` begins like it, then looks where trials were good: the tree-structured Parzen estimator of Bergstra et al. (NIPS
2011), as Optuna has it.

To add one, write a function and enter it in SAMPLERS.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqbench.errors import UsageError
from seqbench.registry import Registry
from seqbench.tuning.dimensions import Dimension, Range
from seqbench.tuning.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState

Settings = dict[str, Any]  # field → value

STARTUP = 8  # trials that are spread evenly before tpe looks at any
DRAWN = 64  # points of a sequence that are computed at once
PATIENCE = 1000  # proposals that have been tried already, one after the other, before no more are made


@dataclass(frozen=True)
class Told:
    """What a sampler is told of a trial."""

    settings: Settings
    curve: tuple[float, ...] = ()  # the best validation figure after each epoch
    pruned: bool = False  # ended before its time; with an empty curve, the trial failed


Sampler = Callable[[Space, int, Sequence[Told], int], list[Settings]]


def sobol(space: Space, seed: int, told: Sequence[Told], count: int) -> list[Settings]:
    """Return the next `count` points of a sequence that have not been tried."""
    return _untried(_sobol_points(space, seed), told, count)


def tpe(space: Space, seed: int, told: Sequence[Told], count: int) -> list[Settings]:
    """Return `count` points near those that were good and far from those that were not.

    Raises:
        UsageError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "--sampler tpe needs Optuna, which is not installed.",
            hint="Install it with `pip install 'seqbench[tune]'`, or use --sampler sobol.",
        ) from None
    if len(told) < STARTUP:
        return sobol(space, seed, told, count)
    from optuna.trial import create_trial

    distributions = {field: _distribution(dimension) for field, dimension in space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mixed = random.Random(f"{seed}/{len(told)}").getrandbits(31)  # noqa: S311 - another one in every round
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=0, constant_liar=True, seed=mixed)
    )
    for trial in told:
        # A model's own defaults may lie outside of the space, and are refused: of those, nothing can be learned.
        with suppress(ValueError):
            study.add_trial(
                create_trial(
                    state=_state(trial),
                    value=trial.curve[-1] if trial.curve else None,
                    params={name: trial.settings[name] for name in space},
                    distributions=distributions,
                    intermediate_values=dict(enumerate(trial.curve, start=1)),
                )
            )

    def points() -> Iterator[Settings]:
        while True:
            proposed = study.ask(distributions).params
            yield {field: dimension.rounded(proposed[field]) for field, dimension in space.items()}

    return _untried(points(), told, count)


SAMPLERS: Registry[Sampler] = Registry("Sampler", {"sobol": sobol, "tpe": tpe}, "seqbench tune --help")


def _sobol_points(space: Space, seed: int) -> Iterator[Settings]:
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(len(space), scramble=True, seed=seed)
    while True:
        for shares in engine.draw(DRAWN).tolist():
            # In float32 a share may have been rounded up to 1.
            yield {
                field: dimension.at(min(share, 1 - 2**-24))
                for (field, dimension), share in zip(space.items(), shares, strict=True)
            }


def _untried(points: Iterator[Settings], told: Sequence[Told], count: int) -> list[Settings]:
    """Return the first points that are not among those tried, or fewer if no more come."""
    tried = [trial.settings for trial in told]
    found: list[Settings] = []
    repeated = 0
    while len(found) < count and repeated < PATIENCE:
        point = next(points)
        if point in tried or point in found:
            repeated += 1
        else:
            repeated = 0
            found.append(point)
    return found


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Range):
        if dimension.whole:
            return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return CategoricalDistribution(dimension.values)


def _state(trial: Told) -> "TrialState":
    from optuna.trial import TrialState

    if not trial.curve:
        return TrialState.FAIL
    return TrialState.PRUNED if trial.pruned else TrialState.COMPLETE
