"""The tables of `seqbench list` and `seqbench env`."""

import dataclasses
import platform
import re
from pathlib import Path

from rich.table import Table
from rich.text import Text

import seqbench
from seqbench import environment, paths
from seqbench.data.catalog import DatasetSpec, families, load_catalog
from seqbench.data.prepared import list_prepared
from seqbench.errors import SeqbenchError
from seqbench.models import load_model, model_name, model_names
from seqbench.models.base import IncrementalModel, Model
from seqbench.ops.backends import BACKENDS, resolve

# What `seqbench list models` counts parameters for.
WIDTH = 64
POSITIONS = 50


def models_table() -> Table:
    """One line per registered model."""
    table = _table("Model", "What it is", "Causal", "Incremental", "Parameters", "Paper")
    for name in model_names():
        try:
            cls = load_model(name)
        except SeqbenchError as error:  # of another package; ours can always be loaded
            table.add_row(name, error.message)
            continue
        # A model that has both forms is causal, and then perhaps incremental, if --set NAME.causal=true says so.
        optional = any(field.name == "causal" for field in dataclasses.fields(cls.Config))
        causal = "optional" if optional else _yes(cls.Config().causal)
        incremental = causal if issubclass(cls, IncrementalModel) else "no"
        if issubclass(cls, IncrementalModel) and cls.state_grows:
            incremental = "growing"
        table.add_row(name, cls.summary, causal, incremental, parameter_words(cls), cls.paper)
    table.caption = (
        f"Parameters at D = {WIDTH}, V = items + 1, sequences of at most {POSITIONS} items; the part "
        "with V is the item table.\n"
        "Incremental: one item can be appended to a state; growing, if the state grows with the history.\n"
        "`seqbench list models NAME` shows a model's settings."
    )
    return table


def parameter_words(cls: type[Model]) -> str:
    """The number of parameters as a function of the catalogue: "99,840 + 64 V"."""
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
    """The fields that --set can change, with their defaults, and what --preset paper changes."""
    cls, name = load_model(name), model_name(name)
    table = _table("Setting", "Default", *(["--preset paper"] if cls.presets else []))
    defaults = dataclasses.asdict(cls.Config())
    if cls.training_defaults is not None:
        defaults |= dataclasses.asdict(cls.training_defaults)
    for field, value in defaults.items():
        papers = [f"{dataset}: {fields[field]}" for dataset, fields in cls.presets.items() if field in fields]
        table.add_row(f"{name}.{field}", str(value), *(["\n".join(papers)] if cls.presets else []))
    return table if table.row_count else Text(f"{name} has nothing to set.")


def datasets_table(home: Path) -> Table:
    """One line per data set of the catalogue, and per other prepared one."""
    ready = {prepared.name: prepared for prepared in list_prepared(home)}
    catalog = load_catalog()
    table = _table("Data set", "Title", "Prepared")
    for title in ("Users", "Items", "Interactions", "Download"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Licence")
    for name in [*catalog, *(name for name in ready if name not in catalog)]:
        spec, prepared = catalog.get(name), ready.get(name)
        expected = spec.expected if spec else None
        counts = prepared or (expected.prepared or expected.raw if expected else None)
        form = "{:,}" if prepared or (expected and expected.prepared) else "({:,})"
        values = (counts.users, counts.items, counts.interactions) if counts else (None, None, None)
        sizes = ["–" if value is None else form.format(value) for value in values]
        title = spec.title if spec else prepared.meta["title"] if prepared else ""
        licence = spec.licence if spec else prepared.meta["licence"] if prepared else ""
        table.add_row(
            name,
            title,
            _yes(prepared is not None),
            *sizes,
            _download(spec) if spec else "none",
            re.split("[.;]", licence)[0],
        )
    more = ", ".join(f"{family}:CATEGORY" for family in families())
    table.caption = (
        f"In brackets: before filtering. Prepared data sets are in {paths.prepared(home)}.\n"
        f"{more}: any category of the publisher's. A file of yours: seqbench prepare --raw FILE --name NAME."
    )
    return table


def _download(spec: DatasetSpec) -> str:
    """How much is fetched, as far as that is known."""
    if spec.generator:
        return "none"
    if spec.manual:
        return "by hand"
    size = next(source.size for source in spec.sources if not source.manual)
    return f"{size / 1e6:,.1f} MB" if size else "unknown"


def environment_table(home: Path, results: Path) -> Table:
    """Versions, machine, folders and backends of the operators."""
    import torch

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    commit = environment.git_commit()
    table.add_row("seqbench", seqbench.__version__ + (f" (commit {commit})" if commit else ""))
    table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    for name, version in environment.packages().items():
        table.add_row(name, version)
    table.add_row("CPU", f"{environment.cpu_name()}, {environment.cores()} cores, {torch.get_num_threads()} threads")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    table.add_row("GPU", ", ".join(gpus) or f"none that torch {torch.__version__} can use")
    table.add_row("NVIDIA driver", environment.gpu_driver() or "none")
    table.add_row("home", str(home))
    table.add_row("results", str(results.resolve()))
    devices = ["cpu", *(["cuda"] if gpus else [])]
    for backend in BACKENDS.values():
        reasons = {device: backend.unavailable("linear_scan", device) for device in devices}
        words = [f"{device}: {reason or 'available'}" for device, reason in reasons.items()]
        table.add_row(f"backend {backend.name}", f"{backend.summary}; {', '.join(words)}")
    for device in devices:
        table.add_row(f"auto on {device}", resolve("linear_scan", "auto", device).name)
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    for title in titles:
        table.add_column(title, no_wrap=title in ("Model", "Data set", "Setting", "Parameters"))
    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"
