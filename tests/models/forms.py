"""Every registered model with its defaults, and in its other forms where they are an option."""

from dataclasses import fields, replace

from seqbench.models import MODELS, load_model
from seqbench.models.base import Model, ModelConfig

# Field of a config → its value in each form, by what is added to the model's name.
OPTIONS = {"causal": {"": False, "-causal": True}, "positions": {"": "newest", "-oldest": "oldest"}}


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


FORMS = {form: made for name in MODELS for form, made in forms(name).items()}
