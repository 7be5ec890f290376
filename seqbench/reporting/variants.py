"""Records that differ only in their seed, and the words that tell such groups apart."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seqbench.reporting.runs import StoredRun
from seqbench.results import Definition, Record
from seqbench.results.records import FULL, Failure
from seqbench.tuning.searches import Search, Searches

MESSAGE_LENGTH = 100  # of a failure; the record has all of it

# Settings that make a model another one than its paper's: named wherever they are on, even if all variants have them.
OTHER_MODEL = ("config.causal", "config.official_quirks", "config.positions")

# What is named wherever it is another.
USUAL = {"precision": FULL, "world_size": "1"}


@dataclass(frozen=True)
class Variant:
    """One model in one configuration: what is averaged over seeds."""

    model: str
    configuration: str  # what differs from the model's defaults, or from its other variants; else empty
    runs: tuple[StoredRun, ...]  # by seed

    @property
    def records(self) -> list[Record]:
        """Return the records of all seeds."""
        return [run.record for run in self.runs]

    @property
    def finished(self) -> list[Record]:
        """Return the records that have figures."""
        return [record for record in self.records if record.finished]

    @property
    def failed(self) -> list[Record]:
        """Return the records that have a failure instead."""
        return [record for record in self.records if not record.finished]

    @property
    def trained(self) -> bool:
        """Return whether the seed matters; models that only count have no training section."""
        return self.records[0].definition.training is not None

    @property
    def imported(self) -> bool:
        """Return whether it was run by another program."""
        return self.records[0].imported is not None

    def training_words(self) -> str:
        """Say how it was trained, where that is not at all positions with the softmax over the whole catalogue."""
        training = self.records[0].definition.training or {}
        words = []
        if training.get("objective", "all-positions") != "all-positions":
            windows = self.records[0].definition.protocol.windows_words()
            words.append(f"trained on {training['objective']}es{f', not on {windows}' if windows else ''}")
        if (loss := training.get("loss", "cross-entropy")) != "cross-entropy":
            words.append(f"loss {loss} with {training['negatives']} negatives")
        return ", ".join(words)

    def times_words(self) -> str:
        """Say which times the model was given; empty if none."""
        if not any(record.uses_times for record in self.records):
            return ""
        if self.records[0].definition.protocol.request_time:
            return "knows the times of past items and of the request"
        return "knows the times of past items, and not that of the request"

    def failure_words(self) -> str:
        """Say what failed, with equal failures named once."""
        seeds: dict[str, list[int]] = {}
        for record in self.failed:
            seeds.setdefault(_failure(record), []).append(record.definition.seed)
        words = "; ".join(f"{seed_list(group)} failed: {failure}" for failure, group in seeds.items())
        left = [record.definition.seed for record in self.finished]
        return f"{words}; the figures are those of {seed_list(left)}" if left else words

    def remarks(self, seeds: Sequence[int]) -> list[str]:
        """Say what a reader must know before comparing it with other variants, whose seeds are these."""
        remarks = [words for words in (self.training_words(), self.times_words()) if words]
        remarks += dict.fromkeys(_origin(record) for record in self.records if record.imported)
        remarks += self.seed_remarks(seeds)
        if any(record.training and not record.training["stopped_early"] for record in self.finished):
            remarks.append("ended at its limit of epochs: more may help")
        return remarks

    def seed_remarks(self, seeds: Sequence[int]) -> list[str]:
        """Say which seeds the figures are made of, if not of these."""
        ran = [record.definition.seed for record in self.records]
        if self.failed and self.finished:
            return [self.failure_words()]
        if self.trained and self.finished and set(ran) != set(seeds):
            return [f"{seed_list(ran)} only"]
        return []


def _origin(record: Record) -> str:
    """Say where figures of another program come from."""
    assert record.imported is not None
    depth = record.imported["depth"]
    places = f", the best {depth} items of each user" if depth else ""
    return f"imported from {record.imported['file']}{places}"


def group_variants(
    runs: Iterable[StoredRun], model_order: Sequence[str], searches: Searches | None = None
) -> tuple[list[Variant], str]:
    """Group runs that differ only in their seed, and name what sets the groups apart.

    Args:
        runs: of one data set under one protocol.
        searches: by model; settings that one has chosen are called tuned, and have a table of their own.

    Returns:
        The variants in the given order of models, unlisted ones alphabetically behind; and the settings that would be
        named in every row of a trained model, which are named once instead: "epochs=15".
    """
    models: dict[str, dict[str, list[StoredRun]]] = {}
    for run in runs:
        definition = run.record.definition
        variants = models.setdefault(definition.model, {})
        variants.setdefault(json.dumps(_settings(definition), sort_keys=True), []).append(run)

    found: list[tuple[str, dict[str, str], list[StoredRun]]] = []
    origins: list[str] = []
    for model in order_models(models, model_order):
        groups = [sorted(group, key=lambda run: run.seed) for group in models[model].values()]
        settings = _apart([_settings(group[0].record.definition) for group in groups], [_changed(g) for g in groups])
        found += [(model, shown, group) for shown, group in zip(settings, groups, strict=True)]
        search = (searches or {}).get(model)
        origins += [_origin_of_settings(shown, group[0], search) for shown, group in zip(settings, groups, strict=True)]
    common = _common([shown for _, shown, group in found if group[0].record.definition.training is not None])
    own = [{key: text for key, text in shown.items() if key not in common} for _, shown, _ in found]
    short = _short_names(own)
    labels = [
        ", ".join(filter(None, [origin, _words(shown, short)])) for origin, shown in zip(origins, own, strict=True)
    ]
    variants_of = [Variant(model, label, tuple(group)) for label, (model, _, group) in zip(labels, found, strict=True)]
    position = {model: index for index, model in enumerate(order_models(models, model_order))}
    ordered = sorted(variants_of, key=lambda variant: (position[variant.model], variant.configuration))
    return ordered, _words(common, _short_names([common]))


def _origin_of_settings(shown: dict[str, str], run: StoredRun, search: Search | None) -> str:
    """Return "default" or "tuned, 20 trials" for a variant of a model that was searched, else nothing.

    What a search has chosen need not be shown beside that: it is taken out of `shown`.
    """
    if search is None:
        return ""
    chosen = search.chose(run.record.definition)
    by_default = not any(_last(key) in search.searched for key in shown)
    if not chosen:
        return "default" if by_default else ""
    for key in [key for key in shown if _last(key) in search.searched]:
        del shown[key]
    return f"{'default and ' if by_default else ''}tuned, {len(search.trials)} trials"


def order_models(models: Iterable[str], model_order: Sequence[str]) -> list[str]:
    """Return distinct names in the given order, unlisted ones alphabetically behind."""
    rank = {model: position for position, model in enumerate(model_order)}
    return sorted(set(models), key=lambda name: (rank.get(name, len(rank)), name))


def changed_settings(run: StoredRun) -> str:
    """Write the settings of a run that differ from its model's defaults: "dropout=0.5, epochs=15"."""
    shown = {key: _text({key: value}, key) for key, value in _flat(run.record.changes or {}).items()}
    return _words(shown, _short_names([shown]))


def seed_list(seeds: Sequence[int]) -> str:
    """Write "seed 0" or "seeds 0, 1"."""
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(str(seed) for seed in seeds)}"


def _settings(definition: Definition) -> dict[str, Any]:
    """Return what defines a variant, flat: "config.dropout" → 0.2."""
    fields = asdict(definition)
    names = ("config", "training", "device", "backend", "source", "precision", "world_size", "revision")
    return _flat({name: fields[name] for name in names})


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{path}.{key}" if path else key)
    return flat


def _changed(runs: Sequence[StoredRun]) -> set[str] | None:
    """Return the settings that differ from the model's defaults; None if no record tells: old ones did not keep it."""
    return next((set(_flat(run.record.changes)) for run in runs if run.record.changes is not None), None)


def _apart(variants: Sequence[dict[str, Any]], changed: Sequence[set[str] | None]) -> list[dict[str, str]]:
    """Return for each variant of a model the settings that set it apart: {"config.dropout": "0.2"}.

    They are those that differ from the model's defaults, even if it is the only variant; of variants of which that is
    not known, those in which not all variants are equal. And, always, what makes it another model than its paper's, and
    a precision other than fp32 and more than one process.
    """
    shown: list[dict[str, str]] = [{} for _ in variants]
    for key in sorted({key for settings in variants for key in settings}):
        texts = [_text(settings, key) for settings in variants]
        # What a variant has by default needs no name, unless another version, device or backend has another default.
        defaults = {text for text, known in zip(texts, changed, strict=True) if known is not None and key not in known}
        for index, known in enumerate(changed):
            apart = len(set(texts)) > 1 if known is None else key in known or len(defaults) > 1
            other = variants[index].get(key) if key in OTHER_MODEL else texts[index] != USUAL.get(key, texts[index])
            if apart or other:
                shown[index][key] = texts[index]
    return shown


def _common(settings: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what all of several variants have, but for what makes a model another one than its paper's."""
    if len(settings) < 2:
        return {}
    first, *others = settings
    return {
        key: text
        for key, text in first.items()
        if key not in OTHER_MODEL and all(other.get(key) == text for other in others)
    }


def _short_names(settings: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return names without "config." and "training.", which are our words, where they can be told apart without."""
    keys = {key for shown in settings for key in shown}
    last = [_last(key) for key in keys]
    return {key: _last(key) if last.count(_last(key)) == 1 else key for key in keys}


def _words(shown: dict[str, str], names: dict[str, str]) -> str:
    """Write settings as "dropout=0.2, lr=0.001"."""
    return ", ".join(f"{names[key]}={text}" for key, text in shown.items())


def _last(key: str) -> str:
    return key.partition(".")[2] or key


def _text(settings: dict[str, Any], key: str) -> str:
    value = settings.get(key, "unset")
    return value if isinstance(value, str) else json.dumps(value)


def _failure(record: Record) -> str:
    failure = record.failure or Failure(kind="error", message="")
    kind = failure["kind"]
    lines = failure["message"].strip().splitlines()
    if not lines:
        return kind
    first = lines[0].strip()
    return f"{kind} ({first if len(first) <= MESSAGE_LENGTH else first[: MESSAGE_LENGTH - 1] + '…'})"
