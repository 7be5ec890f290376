"""Searching: rounds of trials of all models, each round proposed from the outcome of those before it.

A trial is a cell, and the store says which are done: a search that was killed goes on where it was, one that is
repeated finds everything done, and several commands on one store share the work. A round has the same size whatever
runs at the same time, so that neither what is proposed nor what is pruned depends on it.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from seqbench import console
from seqbench.errors import UsageError
from seqbench.execution.orders import Attempt
from seqbench.planning import PlannedCell, look_up
from seqbench.results import Definition, Record, tried_record, write_record
from seqbench.tuning.samplers import SAMPLERS, Settings, Told
from seqbench.tuning.searches import curve_of
from seqbench.tuning.space import Space, size

ROUND = 4  # trials of each model that are proposed together
COMPARED = 3  # trials that were not pruned, before any is
GRACE_EPOCHS, GRACE_SHARE = 3, 0.05  # of training in which no trial is pruned, whichever is longer

# Of all trials. Not a usual seed of runs: a setting that won by luck must not take its seed along into the tables.
SEED = 1000


@dataclass
class Hunt:
    """The search of one model on one data set, while it goes on.

    Args:
        name: for messages.
        space: what is searched.
        defaults: the values that the searched fields have by default: the first trial.
        define: returns the cell of some settings.
        told: what came of the trials so far.
    """

    name: str
    space: Space
    defaults: Settings
    define: Callable[[Settings], Definition]
    told: list[Told] = field(default_factory=list)

    def propose(self, count: int, sampler: str, seed: int) -> list[Settings]:
        """Return the settings of the next trials, `count` of them unless the space has no more."""
        first = [] if self.told else [self.defaults]
        told = [*self.told, *map(Told, first)]
        return [*first, *SAMPLERS[sampler](self.space, seed, told, count - len(first))]

    def bars(self, epochs: int) -> tuple[float, ...]:
        """Return by epoch the median of the best validation figure of the trials that were not pruned; -1 for none.

        A trial that stopped early counts with the figure that it ended with.
        """
        curves = [trial.curve for trial in self.told if trial.curve and not trial.pruned]
        if len(curves) < COMPARED:
            return ()
        grace = max(GRACE_EPOCHS, round(GRACE_SHARE * epochs))
        return tuple(
            statistics.median(curve[min(epoch, len(curve)) - 1] for curve in curves) if epoch >= grace else -1.0
            for epoch in range(1, epochs + 1)
        )


def search(
    hunts: Sequence[Hunt],
    results: Path,
    run: Callable[[list[PlannedCell]], list[Record]],
    *,
    trials: int,
    sampler: str,
    seed: int,
    prune: bool,
) -> list[Record]:
    """Make so many trials of every hunt, round by round.

    Args:
        run: runs cells, and returns their records; without those that there was no time for, which end the search.

    Returns:
        The records of trials that failed for another reason than their settings.

    Raises:
        UsageError: there is no such sampler, or a space has fewer settings than trials.
    """
    _ = SAMPLERS[sampler]
    if trials < 1:
        raise UsageError(f"{trials} trials choose nothing.", hint="--trials 20 is usual.")
    for hunt in hunts:
        if size(hunt.space) < trials - 1:
            raise UsageError(
                f"The space of {hunt.name} has {size(hunt.space):g} settings, too few for {trials} trials.",
                hint="Widen it with --space, or lower --trials.",
            )
    failed: list[Record] = []
    done = 0
    for first in range(0, trials, ROUND):
        attempts = [
            (hunt, hunt.define(settings), Attempt(first + place, settings, sampler))
            for hunt in hunts
            for place, settings in enumerate(hunt.propose(min(ROUND, trials - first), sampler, seed))
        ]
        todo = []
        for hunt, definition, attempt in attempts:
            cell = look_up(definition, results)
            if tried_record(results, definition) is None:
                assert definition.training is not None
                bars = hunt.bars(definition.training["epochs"]) if prune else ()
                todo.append(replace(cell, attempt=replace(attempt, bars=bars)))
        done += len(attempts) - len(todo)
        if todo:
            records = run(todo)
            failed += [record for record in records if not record.tried]
            if len(records) < len(todo):
                break
        for hunt, definition, attempt in attempts:
            hunt.told.append(_told(results, definition, attempt))
    if done:
        console.note(f"{done} of {trials * len(hunts)} trials were done already.")
    return failed


def _told(results: Path, definition: Definition, attempt: Attempt) -> Told:
    """Return what came of a trial; a cell that `seqbench run` has finished is marked as one."""
    record = tried_record(results, definition)
    if record is None:
        return Told(attempt.settings)
    if record.trial is None:
        record.trial = attempt.trial()
        write_record(results, record)
    curve = curve_of(record) if record.validation else ()
    return Told(attempt.settings, curve, record.trial["pruned"])
