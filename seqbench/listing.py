"""The tables of `seqbench list` and `seqbench env`."""

import dataclasses
import platform
from pathlib import Path

from rich import filesize
from rich.table import Table
from rich.text import Text

import seqbench
from seqbench import environment, paths
from seqbench.data.catalog import Counts, DatasetSpec, Expected, Source, families, get_spec, is_known, load_catalog
from seqbench.data.prepared import filter_words, list_prepared, open_prepared
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
            words = cls.summary, parameter_words(cls), cls.paper
        except Exception as error:  # of another package; ours can always be loaded
            table.add_row(name, Text(error.message if isinstance(error, SeqbenchError) else repr(error)))
            continue
        # A model that has both forms is causal, and then perhaps incremental, if --set NAME.causal=true says so.
        optional = any(field.name == "causal" for field in dataclasses.fields(cls.Config))
        causal = "optional" if optional else _yes(cls.Config().causal)
        incremental = causal if issubclass(cls, IncrementalModel) else "no"
        if issubclass(cls, IncrementalModel) and cls.state_grows:
            incremental = "growing"
        summary, parameters, paper = (Text(each) for each in words)  # not markup: titles may hold brackets
        table.add_row(name, summary, causal, incremental, parameters, paper)
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
        table.add_row(f"{name}.{field}", Text(str(value)), *(["\n".join(papers)] if cls.presets else []))
    return table if table.row_count else Text(f"{name} has nothing to set.")


def datasets_table(home: Path) -> Table:
    """One line per data set of the catalogue, and per other prepared one."""
    ready = {prepared.name: prepared for prepared in list_prepared(home)}
    catalog = load_catalog()
    table = _table("Data set", "Ready")
    table.padding = (0, 1, 0, 0)
    for title in ("Users", "Items", "Inter-\nactions", "Download"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in [*catalog, *(name for name in ready if name not in catalog)]:
        spec, prepared = catalog.get(name), ready.get(name)
        expected = spec.expected if spec else None
        counts = prepared or (expected.prepared or expected.raw if expected else None)
        form = "{}" if prepared or (expected and expected.prepared) else "({})"
        values = (counts.users, counts.items, counts.interactions) if counts else (None, None, None)
        sizes = ["–" if value is None else form.format(short_count(value)) for value in values]
        table.add_row(name, _yes(prepared is not None), *sizes, _download(spec) if spec else "none")
    more = ", ".join(f"{family}:CATEGORY" for family in families())
    table.caption = (
        f"In brackets: before filtering. Ready: prepared in {paths.prepared(home)}.\n"
        f"{more}: any category of the publisher's. A file of yours: seqbench prepare --raw FILE --name NAME.\n"
        "`seqbench list datasets NAME` shows title, filters, sources and licence."
    )
    return table


def dataset_table(name: str, home: Path) -> Table:
    """What is known of one data set: of the catalogue, or another prepared one.

    Raises:
        UsageError: no data set has this name.
    """
    if not is_known(name):
        meta = open_prepared(name, home).meta
        return _facts(
            ("data set", meta["name"]),
            ("title", meta["title"]),
            ("ready", f"yes, in {paths.prepared(home, name)}"),
            ("size", _counts(Counts(**{key: meta["counts"][key] for key in ("users", "items", "interactions")}))),
            ("filter", filter_words(meta["filters"])),
            ("source", meta["source"]["label"]),
            ("licence", meta["licence"]),
        )
    spec = get_spec(name)
    folder = paths.prepared(home, name)
    expected = spec.expected or Expected("")
    filters = {key: getattr(spec, key) for key in ("min_user", "min_item", "rule", "duplicates", "repeats")}
    return _facts(
        ("data set", name),
        ("title", spec.title),
        ("ready", f"yes, in {folder}" if folder.is_dir() else f"no; `seqbench prepare {name}`"),
        ("raw size", _counts(expected.raw)),
        ("prepared size", _counts(expected.prepared)),
        ("published in", expected.source),
        ("filter", filter_words(filters)),
        ("splits", ", ".join(spec.splits)),
        *(("source", f"{source.label}, {source.location}{_size(source)}") for source in spec.sources),
        ("home page", spec.homepage or ""),
        ("licence", spec.licence),
        ("cite", spec.citation),
    )


def short_count(count: int) -> str:
    """A number in six characters at most, up to 99 million and more: "9,999", "99.3 k", "12.3 M"."""
    if count < 10_000:
        return f"{count:,}"
    size, unit = (count / 1e6, "M") if count >= 999_500 else (count / 1e3, "k")
    return f"{size:,.{0 if size >= 99.95 else 1}f} {unit}"


def _counts(counts: Counts | None) -> str:
    named = (
        (
            (counts.users, "users"),
            (counts.items, "items"),
            (counts.interactions, "interactions"),
        )
        if counts
        else ()
    )
    return ", ".join(f"{value:,} {noun}" for value, noun in named if value is not None)


def _size(source: Source) -> str:
    return f" ({filesize.decimal(source.size)})" if source.size else ""


def _download(spec: DatasetSpec) -> str:
    """How much is fetched, as far as that is known."""
    if spec.generator:
        return "none"
    if spec.manual:
        return "by hand"
    size = next(source.size for source in spec.sources if not source.manual)
    return filesize.decimal(size) if size else "unknown"


def _facts(*rows: tuple[str, str]) -> Table:
    """Names and what they stand for; without those that stand for nothing."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, Text(value))  # not markup: titles and paths may hold brackets
    return table


def environment_table(home: Path, results: Path) -> Table:
    """Versions, machine, folders and backends of the operators."""
    import torch

    commit = environment.git_commit()
    rows = [("seqbench", seqbench.__version__ + (f" (commit {commit})" if commit else ""))]
    rows.append(("Python", f"{platform.python_version()} on {platform.platform()}"))
    rows += environment.packages().items()
    rows.append(("CPU", f"{environment.cpu_name()}, {environment.cores()} cores, {torch.get_num_threads()} threads"))
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows.append(("GPU", ", ".join(gpus) or f"none that torch {torch.__version__} can use"))
    rows.append(("NVIDIA driver", environment.gpu_driver() or "none"))
    rows.append(("home", str(home)))
    rows.append(("results", str(results.resolve())))
    devices = ["cpu", *(["cuda"] if gpus else [])]
    for _, backend in BACKENDS.items():
        reasons = {device: backend.unavailable("linear_scan", device) for device in devices}
        words = [f"{device}: {reason or 'available'}" for device, reason in reasons.items()]
        rows.append((f"backend {backend.name}", f"{backend.summary}; {', '.join(words)}"))
    for device in devices:
        rows.append((f"auto on {device}", resolve("linear_scan", "auto", device).name))
    return _facts(*rows)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    for title in titles:
        table.add_column(title, no_wrap=title in ("Model", "Data set", "Setting", "Parameters"))
    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"
