"""The tables of `seqbench list models`."""

import dataclasses
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from seqbench.errors import SeqbenchError
from seqbench.models import find_model, model_names
from seqbench.models.base import IncrementalModel, Model, ModelConfig
from seqbench.models.stack import POSITIONS as POSITIONS_FROM
from seqbench.show.tables import columns, yes_or_no

# What `seqbench list models` counts parameters for.
WIDTH = 64
POSITIONS = 50


def models_table() -> Table:
    """Show one line per registered model."""
    table = columns("Model", "What it is", "Causal", "Steps", "Times", "Parameters", "Paper")
    for name in model_names():
        try:
            cls = find_model(name).cls
            words = cls.summary, parameter_words(cls), cls.paper
        except Exception as error:  # of another package; ours can always be loaded
            table.add_row(name, Text(error.message if isinstance(error, SeqbenchError) else repr(error)))
            continue
        forms = list(_forms(cls.Config()))
        causal = _in_forms([form.causal for form in forms])
        incremental = _in_forms([issubclass(cls, IncrementalModel) and form.incremental for form in forms])
        if incremental == "yes" and cls.state_grows:  # type: ignore[attr-defined]
            incremental = "growing"
        times = yes_or_no(cls.Config().uses_times)
        summary, parameters, paper = (Text(each) for each in words)  # not markup: titles may hold brackets
        table.add_row(name, summary, causal, incremental, times, parameters, paper)
    table.caption = (
        f"Parameters at D = {WIDTH}, V = items + 1, sequences of at most {POSITIONS} items; the part "
        "with V is the item table.\n"
        "Steps: one item can be appended to a state; growing, if the state grows with the history.\n"
        "Times: it uses the times of items, and not only their order.\n"
        "`seqbench list models NAME` shows a model's settings."
    )
    return table


def _forms(config: ModelConfig) -> Iterator[ModelConfig]:
    """Yield a config, and those with one switch the other way: what `--set` makes of a model."""
    yield config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        others = [not value] if isinstance(value, bool) else POSITIONS_FROM if field.name == "positions" else []
        for other in others:
            yield dataclasses.replace(config, **{field.name: other})


def _in_forms(answers: Sequence[bool]) -> str:
    """Write what all forms of a model answer, or that it is a choice."""
    return "optional" if len(set(answers)) > 1 else yes_or_no(answers[0])


def parameter_words(cls: type[Model]) -> str:
    """Write the number of parameters as a function of the catalogue: "99,840 + 64 V"."""
    config = cls.Config()
    if "hidden_size" in dataclasses.asdict(config):
        config = dataclasses.replace(config, **{"hidden_size": WIDTH})
    small, large = (
        sum(parameter.numel() for parameter in cls(items, POSITIONS, config).parameters()) for items in (9, 19)
    )
    per_item = (large - small) // 10
    words = [f"{small - 10 * per_item:,}" if small - 10 * per_item else "", f"{per_item} V" if per_item else ""]
    return " + ".join(word for word in words if word) or "0"


def settings_table(name: str) -> Table | Text:
    """Show the fields that --set can change, with their defaults, and what --preset paper changes."""
    entry = find_model(name)
    cls, name = entry.cls, entry.name
    table = columns("Setting", "Default", *(["--preset paper"] if cls.presets else []))
    defaults = dataclasses.asdict(cls.Config())
    if cls.training_defaults is not None:
        defaults |= dataclasses.asdict(cls.training_defaults)
    for field, value in defaults.items():
        papers = [f"{dataset}: {fields[field]}" for dataset, fields in cls.presets.items() if field in fields]
        table.add_row(f"{name}.{field}", Text(str(value)), *(["\n".join(papers)] if cls.presets else []))
    return table if table.row_count else Text(f"{name} has nothing to set.")
