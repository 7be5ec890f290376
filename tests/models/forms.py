"""Every registered model with its defaults, and in its other forms where they are an option."""

from dataclasses import fields, replace

import torch
from torch import Tensor

from seqbench.models import MODELS, load_model
from seqbench.models.base import Model, ModelConfig
from seqbench.models.times import Times

# Field of a config → its value in each form, by what is added to the model's name.
OPTIONS = {
    "causal": {"": False, "-causal": True},
    "positions": {"": "newest", "-oldest": "oldest"},
    "time_bias": {"": True, "-timeless": False},
    "time_aware": {"": True, "-timeless": False},
}
BEGIN = 1_600_000_000  # seconds


def forms(name: str) -> dict[str, tuple[type[Model], ModelConfig]]:
    """The forms of one model, by a name for test reports."""
    cls = load_model(name)
    default = cls.Config()
    made: dict[str, tuple[type[Model], ModelConfig]] = {name: (cls, default)}
    for option in [field.name for field in fields(default) if field.name in OPTIONS]:
        for added, value in OPTIONS[option].items():
            made[f"{name}{added}"] = (cls, replace(default, **{option: value}))
    return made


def plain_name(form: str) -> str:
    """The name of the model that a form is one of."""
    return form.partition("-")[0]


def times_for(model: Model, items: Tensor) -> tuple[Times, ...]:
    """Times for items (B, T) of a model that uses some: gaps and waits from 0 seconds to weeks, each by its item.

    So a part of a history has a part of its times.
    """
    if not model.config.uses_times:
        return ()
    gaps, waits = (items**power * 7919 % 10**6 * (items % 4) for power in (2, 3))
    events = torch.where(items > 0, BEGIN + gaps.cumsum(1), 0)
    return (Times(events, torch.where(items > 0, events + waits, 0)),)


def part(times: tuple[Times, ...], *index: slice | int | Tensor) -> tuple[Times, ...]:
    """An index of times, if there are any."""
    return tuple(each.part(*index) for each in times)


# gsasrec is the code of sasrec with other defaults.
FORMS = {form: made for name in MODELS if name != "gsasrec" for form, made in forms(name).items()}
