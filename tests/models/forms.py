"""Every registered model with its defaults, and in its causal form where that is an option."""

from dataclasses import fields, replace

from seqbench.models import MODELS, load_model
from seqbench.models.base import Model, ModelConfig


def forms(name: str) -> dict[str, tuple[type[Model], ModelConfig]]:
    """The forms of one model, by a name for test reports."""
    cls = load_model(name)
    default = cls.Config()
    if not any(field.name == "causal" for field in fields(default)):
        return {name: (cls, default)}
    return {name: (cls, replace(default, causal=False)), f"{name}-causal": (cls, replace(default, causal=True))}


FORMS = {form: made for name in MODELS for form, made in forms(name).items()}
