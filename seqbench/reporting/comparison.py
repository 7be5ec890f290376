"""Two models side by side: by how much they differ on every data set, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.metrics import Measure
from seqbench.evaluation.statistics import Comparison, Floats, bootstrap_interval, compare, holm
from seqbench.protocol import Protocol
from seqbench.reporting.names import display_name
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.variants import Variant, group_variants


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


def contests(runs: Sequence[StoredRun], first: str, second: str, measures: Sequence[Measure]) -> list[Contest]:
    """Compare two models wherever both have been run.

    Args:
        first: a model, or "model (setting=value)" as a report names one of several configurations.
        second: the other one.

    Raises:
        UsageError: no data set has both, or a name is that of several configurations.
        SeqbenchError: ranks are missing, or are not those of the same users.
    """
    groups: dict[tuple[str, str, Protocol], list[StoredRun]] = {}
    for run in runs:
        definition = run.record.definition
        if run.record.finished:
            groups.setdefault((definition.dataset, definition.fingerprint, definition.protocol), []).append(run)
    found: list[tuple[str, Protocol, Measure, Floats, Floats]] = []
    for (dataset, _, protocol), group in sorted(groups.items(), key=lambda item: (item[0][:2], repr(item[0][2]))):
        variants, _ = group_variants(group, ())
        pair = [_variant(variants, name, dataset) for name in (first, second)]
        if pair[0] is None or pair[1] is None:
            continue
        users, others = _users(pair[0]), _users(pair[1])
        if not np.array_equal(users, others):
            raise SeqbenchError(
                f"{first} and {second} were tested on different users of {dataset}.", hint="Run both anew."
            )
        found += [(dataset, protocol, each, _values(pair[0], each), _values(pair[1], each)) for each in measures]
    if not found:
        raise UsageError(f"No data set and protocol has both {first} and {second}.", hint="See `seqbench list runs`.")
    compared = [compare(a, b) for *_, a, b in found]
    adjusted = holm([each.p for each in compared])
    return [
        Contest(dataset, protocol, measure, (float(a.mean()), float(b.mean())), each, bootstrap_interval(a, b), p)
        for (dataset, protocol, measure, a, b), each, p in zip(found, compared, adjusted, strict=True)
    ]


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
