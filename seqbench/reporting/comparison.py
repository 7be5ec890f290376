"""Two models side by side: by how much they differ on every data set, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.background import groups, read_background
from seqbench.evaluation.metrics import Measure
from seqbench.evaluation.statistics import Comparison, Floats, bootstrap_interval, compare, holm
from seqbench.protocol import Protocol
from seqbench.reporting.names import display_name
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.variants import Variant, group_variants

SMALLEST_GROUP = 10  # users; fewer say nothing


@dataclass(frozen=True)
class Contest:
    """One metric of two models on one data set under one protocol."""

    dataset: str
    protocol: Protocol
    measure: Measure
    means: tuple[float, float]
    comparison: Comparison
    interval: tuple[float, float]  # of the difference, by the bootstrap over users and seeds
    p: float  # adjusted after Holm for all contests


@dataclass(frozen=True)
class GroupContest:
    """The difference of two models over a group of test users."""

    dataset: str
    protocol: Protocol
    measure: Measure
    told_by: str  # what groups are told apart by, such as "length of the history"
    group: str  # such as "15–40"
    means: tuple[float, float]
    comparison: Comparison


def contests(runs: Sequence[StoredRun], first: str, second: str, measures: Sequence[Measure]) -> list[Contest]:
    """Compare two models wherever both have been run.

    Args:
        first: a model, or "model (setting=value)" as a report names one of several configurations.
        second: the other one.

    Raises:
        UsageError: no data set has both, or a name is that of several configurations.
        SeqbenchError: ranks are missing, or are not those of the same users.
    """
    found = [
        (dataset, protocol, each, _values(pair[0], each), _values(pair[1], each))
        for dataset, _, protocol, pair in _pairs(runs, first, second)
        for each in measures
    ]
    compared = [compare(a, b) for *_, a, b in found]
    adjusted = holm([each.p for each in compared])
    return [
        Contest(dataset, protocol, measure, (float(a.mean()), float(b.mean())), each, bootstrap_interval(a, b), p)
        for (dataset, protocol, measure, a, b), each, p in zip(found, compared, adjusted, strict=True)
    ]


def group_contests(
    runs: Sequence[StoredRun], first: str, second: str, measure: Measure, home: Path
) -> tuple[list[GroupContest], list[SeqbenchError]]:
    """Compare two models by length of the history, and by popularity and age of the target.

    Args:
        home: the folder with the prepared data sets, which know the groups.

    Returns:
        The comparisons, and an error for each data set that is not there.

    Raises:
        UsageError, SeqbenchError: as `contests` does.
    """
    found: list[GroupContest] = []
    errors: list[SeqbenchError] = []
    for dataset, fingerprint, protocol, pair in _pairs(runs, first, second):
        try:
            known = read_background(dataset, fingerprint, protocol.split, home)
        except SeqbenchError as error:
            errors.append(error)
            continue
        if not np.array_equal(known.users, _users(pair[0])):
            errors.append(SeqbenchError(f"The runs on {dataset} are not of the test users of its {protocol.split}."))
            continue
        a, b = (_values(variant, measure) for variant in pair)
        for told_by, buckets in groups(known).items():
            for bucket in buckets:
                if bucket.members.sum() < SMALLEST_GROUP:
                    continue
                here, there = a[:, bucket.members], b[:, bucket.members]
                means = (float(here.mean()), float(there.mean()))
                compared = compare(here, there)
                found.append(GroupContest(dataset, protocol, measure, told_by, bucket.title, means, compared))
    return found, errors


def _pairs(
    runs: Sequence[StoredRun], first: str, second: str
) -> list[tuple[str, str, Protocol, tuple[Variant, Variant]]]:
    """Return data set, fingerprint, protocol and the two models wherever both have been run on the same users."""
    sections: dict[tuple[str, str, Protocol], list[StoredRun]] = {}
    for run in runs:
        definition = run.record.definition
        if run.record.finished:
            sections.setdefault((definition.dataset, definition.fingerprint, definition.protocol), []).append(run)
    found = []
    for key, section in sorted(sections.items(), key=lambda item: (item[0][:2], repr(item[0][2]))):
        variants, _ = group_variants(section, ())
        one, other = (_variant(variants, name, key[0]) for name in (first, second))
        if one is None or other is None:
            continue
        if not np.array_equal(_users(one), _users(other)):
            raise SeqbenchError(
                f"{first} and {second} were tested on different users of {key[0]}.", hint="Run both anew."
            )
        found.append((*key, (one, other)))
    if not found:
        raise UsageError(f"No data set and protocol has both {first} and {second}.", hint="See `seqbench list runs`.")
    return found


def _variant(variants: Sequence[Variant], name: str, dataset: str) -> Variant | None:
    labels = {f"{each.model} ({each.configuration})" if each.configuration else each.model: each for each in variants}
    if name in labels:
        return labels[name]
    found = [label for label, each in labels.items() if name in (each.model, display_name(each.model))]
    if len(found) > 1:
        raise UsageError(
            f"{name} has several configurations on {dataset}: {'; '.join(found)}.", hint=f'Choose: "{found[0]}".'
        )
    return labels[found[0]] if found else None


def _users(variant: Variant) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    users = []
    for run in variant.runs:
        ranks = run.ranks()
        if ranks is None:
            where = run.folder or "a run"
            raise SeqbenchError(run.problem or f"{where} has no ranks.", hint="Run it again: `seqbench run --force`.")
        users.append(ranks.users)
    if not all(np.array_equal(users[0], each) for each in users):
        raise SeqbenchError(f"The seeds of {variant.model} were tested on different users.", hint="Run them anew.")
    return users[0]


def _values(variant: Variant, measure: Measure) -> Floats:
    values = [run.per_user(measure) for run in variant.runs]
    return np.stack([each for each in values if each is not None])
