"""What seqbench does, as functions: the command line parses words and calls these.

Imported as `seqbench.prepare`, `seqbench.run` and so on; nothing heavy is loaded before one of them is used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

from seqbench import console, paths
from seqbench.errors import SeqbenchError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from seqbench.data.prepared import PreparedDataset
    from seqbench.data.sequences import Sequences
    from seqbench.evaluation.ranks import Ranks
    from seqbench.events import Listener
    from seqbench.inference.trained import TrainedModel
    from seqbench.measuring.grid import LatencyGrid
    from seqbench.models import ModelEntry
    from seqbench.models.base import Model
    from seqbench.planning import Plan, PlannedCell
    from seqbench.protocol import Protocol
    from seqbench.reporting.document import Report
    from seqbench.reporting.runs import StoredRun
    from seqbench.reporting.selection import Selection
    from seqbench.results import Definition, Record
    from seqbench.tuning.searches import Search

Folder = str | Path
RESULTS = "results"


class CellOptions(TypedDict, total=False):
    """What `plan`, `run` and `tune` take besides models and data sets; each is optional."""

    protocol: str  # a name of seqbench.protocol.PROTOCOLS; "fair"
    split: str | None  # None: the data set's own split if it has one, else "leave-one-out"
    max_len: int | None  # most recent items that a model sees; None: as the data set says
    request_time: bool  # whether models may know when the next item is asked for; False
    settings: Mapping[str, Any]  # "model.field" or "field" → value
    epochs: int | None  # at most; None: as each model says
    device: str  # "auto", "cpu", "cuda" (all of them) or "cuda:1"
    backend: str  # of the operators; "auto"
    precision: str  # "fp32", "tf32" or "bf16"
    results: Folder  # the results store; "results"
    home: Folder | None  # downloads and prepared data sets; None: the user's cache folder


class PlanOptions(CellOptions, total=False):
    """What `plan` and `run` take besides; each is optional."""

    seeds: Sequence[int]  # each is a run of its own; (0,)
    preset: str | None  # "paper" for what a model's paper sets for each data set
    tuned: bool  # with the settings that `tune` has chosen for each data set
    shard: tuple[int, int] | None  # (i, n): only the i-th of n equal parts of the cells, from 1
    force: bool  # run finished cells again


class SelectionOptions(TypedDict, total=False):
    """Which stored runs are meant; each is optional, and None is as if it were not given."""

    datasets: Sequence[str] | None  # only these
    models: Sequence[str] | None
    protocols: Sequence[str] | None
    splits: Sequence[str] | None
    seeds: Sequence[int | str] | None


class ReportOptions(SelectionOptions, total=False):
    """What `report` takes besides the store and the format; each is optional, and None is as if it were not given."""

    metrics: Sequence[str] | None  # such as "ndcg@10", "recall@50" or "mrr"; computed from the stored ranks
    tables: Sequence[str] | None  # names of seqbench.reporting.tables.TABLES, such as "accuracy" or "cost"
    on: Literal["test", "valid"]  # whose accuracy: of the test or of the validation targets
    baselines: Sequence[str] | None  # models that the others are tested against
    percentiles: Sequence[str] | None  # of latency, on pages: "p50", "p95", "p99"
    home: Folder | None  # prepared data sets, which the tables "beyond" and "buckets" need


def prepare(
    dataset: str,
    *,
    name: str | None = None,
    raw: Folder | None = None,
    columns: Mapping[str, str] | None = None,
    synthetic: Mapping[str, int] | None = None,
    force: bool = False,
    offline: bool = False,
    memory: int | None = None,
    home: Folder | None = None,
    **filters: Any,
) -> "PreparedDataset":
    """Fetch, filter and index a data set, and store it in the home folder.

    Args:
        dataset: a name of the catalogue (`seqbench list datasets`), or, with `raw`, a new name for a file of yours.
        name: store it under this name instead.
        raw: read this archive, folder or file instead of downloading.
        columns: role ("user", "item", "time", "rating", "position", "split") → column of a file of yours.
        synthetic: users, items, length and seed of generated data.
        force: prepare it again even if nothing changed.
        offline: fetch nothing.
        memory: bytes to do with; rows that do not fit go to disk meanwhile. None for half of what is free.
        home: the folder for downloads and prepared data sets; by default the user's cache folder.
        filters: fields of `seqbench.data.filters.Filters`, such as min_user=5 or rule="k-core".

    Raises:
        UsageError: a name is unknown or taken, or options do not fit the data set.
        SeqbenchError: no source works, a file is malformed, or nothing passes the filters.
    """
    from seqbench.data.prepare import prepare as prepare_one
    from seqbench.data.synthetic import SyntheticOptions

    return prepare_one(
        dataset,
        home=_home(home),
        name=name,
        raw=None if raw is None else Path(raw),
        columns=None if columns is None else dict(columns),
        synthetic=None if synthetic is None else SyntheticOptions(**synthetic),
        force=force,
        offline=offline,
        memory=memory,
        **filters,
    )


def prepare_all(
    datasets: Sequence[str], *, force: bool = False, offline: bool = False, home: Folder | None = None, **options: Any
) -> Iterator["PreparedDataset"]:
    """Prepare several data sets of the catalogue, after fetching all that they need, several files at once.

    One that fails does not keep the others from being prepared; the errors come last.

    Args:
        options: further ones of `prepare`.
    """
    from seqbench.data.prepare import prepare_all as prepare_each
    from seqbench.data.synthetic import SyntheticOptions

    if sizes := options.pop("synthetic", None):
        options["synthetic"] = SyntheticOptions(**sizes)
    yield from prepare_each(datasets, home=_home(home), force=force, offline=offline, **options)


def load_dataset(name: str, *, home: Folder | None = None) -> "PreparedDataset":
    """Open a data set, which is prepared first if it is not yet.

    Args:
        name: of the catalogue (`seqbench list datasets`), or what a data set of yours was prepared as.
        home: the folder for downloads and prepared data sets.

    Raises:
        UsageError: no data set has this name.
        SeqbenchError: it cannot be prepared, or is damaged.
    """
    from seqbench.data.chosen import datasets_of_run

    (found,) = datasets_of_run([name], _home(home), dry_run=False)
    return found


def train(
    model: "str | type[Model]",
    split: "Sequences",
    *,
    protocol: "str | Protocol" = "fair",
    max_len: int | None = None,
    seed: int = 0,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "fp32",
    epochs: int | None = None,
    on_event: "Listener | None" = None,
    **settings: Any,
) -> "Model":
    """Train one model, and return it with the weights of its best epoch, in evaluation mode.

    The same code, seed and settings give what a cell of `run` gives; nothing is stored.

    Args:
        model: a registered name, "path/to/file.py:ClassName", or a class.
        split: what `PreparedDataset.split` returned.
        protocol: how windows are cut and the epoch is chosen.
        max_len: most recent items that the model sees; by default as many as the data set says.
        seed: of initial weights, batches, dropout and negatives.
        device: "auto", "cpu", "cuda" or "cuda:1".
        backend: of the operators; see `seqbench env`.
        precision: "fp32", "tf32" or "bf16", of products of matrices in the encoder.
        epochs: at most; by default as the model says.
        on_event: called with `seqbench.events` as training goes on.
        settings: fields of the model's config or of its training config.

    Raises:
        UsageError: no such model, setting or device.
        Diverged: the loss or a score is not finite.
    """
    import torch

    from seqbench import device as devices
    from seqbench.models import ModelEntry, find_model
    from seqbench.models.base import CountingModel, SequenceModel, TrainingConfig
    from seqbench.ops.backends import resolve, use
    from seqbench.precision import PRECISIONS, check
    from seqbench.settings import configure
    from seqbench.training.loop import Trainer, derived_seed

    entry = (
        find_model(model) if isinstance(model, str) else ModelEntry(model.__name__, model.__name__, None, lambda: model)
    )
    config, training = configure(entry, settings, epochs)
    target = devices.resolve(device)
    check(precision, target)
    torch.manual_seed(derived_seed(seed, 0))
    max_len = max_len or split.max_len
    built = entry.cls(split.items, max_len, entry.cls.Config(**config)).to(target)
    if isinstance(built, CountingModel):
        built.fit(split)
        return built.eval()
    assert isinstance(built, SequenceModel)
    assert training is not None
    resolve("linear_scan", backend, target.type)  # an unknown one is said before anything is trained
    trainer = Trainer(
        built,
        split,
        training=TrainingConfig(**training),
        protocol=_protocol(protocol, max_len),
        seed=seed,
        emit=on_event,
    )
    with use(backend), PRECISIONS[precision].active(target):
        trainer.run()
    return built.eval()


def evaluate(
    model: "Model | TrainedModel",
    split: "Sequences",
    *,
    on: Literal["test", "valid"] = "test",
    protocol: "str | Protocol" = "fair",
) -> "Ranks":
    """Rank the held-out item of every user among the whole catalogue.

    Args:
        model: a trained model, of `train` or of `load`.
        split: what `PreparedDataset.split` returned.
        on: which held-out items.
        protocol: what cannot be recommended.

    Returns:
        Ranks, of which `ranks["ndcg@10"]` is a metric's mean over users, and `ranks.per_user("ndcg@10")` its values.
    """
    from seqbench.evaluation.ranking import rank
    from seqbench.inference.trained import TrainedModel

    if isinstance(model, TrainedModel):
        model = model.model
    examples = split.test() if on == "test" else split.valid()
    return rank(model, split, examples, _protocol(protocol, model.max_len))


def plan(
    models: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    *,
    dry_run: bool = True,
    **options: Unpack[PlanOptions],
) -> "Plan":
    """Return the cells that `run` would run with the same arguments, and what the store holds of each.

    Args:
        models: names or references; None for all that are registered.
        datasets: names; None for all that are prepared.
        dry_run: only say which data sets would have to be prepared first.
        options: see `PlanOptions`.

    Raises:
        UsageError: something that is named does not exist.
    """
    from seqbench import planning
    from seqbench.results import load_records

    asked = _asked(models, datasets, options, dry_run=dry_run)
    preset, tuned = options.get("preset"), options.get("tuned", False)
    if preset and tuned:
        raise UsageError("Settings are either tuned or preset.", hint="Leave one of --tuned and --preset out.")
    records = load_records(asked.results)[0] if tuned else []
    cells = []
    for prepared, protocol, define in asked.datasets:
        definitions = define(
            asked.entries.values(),
            options.get("seeds", (0,)),
            preset=preset,
            overrides=asked.overrides,
            tuned=_tuned(records, asked.entries, prepared, protocol) if tuned else None,
        )
        cells += [planning.look_up(each, asked.results, force=options.get("force", False)) for each in definitions]
    made = planning.Plan(cells, asked.entries, asked.home, asked.results, asked.places)
    if (shard := options.get("shard")) is None:
        return made
    part, parts = shard
    if not 1 <= part <= parts:
        raise UsageError(f"There is no part {part} of {parts}.", hint="--shard 1/4 is the first of four.")
    return replace(made, cells=cells[part - 1 :: parts], shared=False)


def run(
    models: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    *,
    executor: str = "process",
    jobs: int | None = None,
    keep_weights: bool = True,
    latency: "LatencyGrid | None" = None,
    time_budget: float | None = None,
    **options: Unpack[PlanOptions],
) -> "list[Record]":
    """Train, evaluate and measure: one cell for each data set, model and seed. Finished cells are skipped.

    Where torchrun has started several processes, they train each cell together: every one of them must make this call.
    The first one carries it out, with the others' help.

    Args:
        models: names or references; None for all that are registered.
        datasets: names; None for all that are prepared. What is not prepared yet is prepared first.
        executor: "process" for a process per cell, or "inline" for this one.
        jobs: how many cells run at a time: by default one on each GPU, or one on the CPU.
        keep_weights: store the best epoch's weights.
        latency: the points that are measured; `LatencyGrid(lengths=())` for none.
        time_budget: seconds from now, after which nothing is running any more; finished epochs are kept.
        options: see `PlanOptions`.

    Returns:
        The records of all cells, in order, of those that failed as well (`record.finished`); without those that there
        was no time for. None in another process than the first that torchrun has started.

    Raises:
        UsageError: something that is named does not exist.
        StorageError: results cannot be stored.
    """
    import time

    from seqbench.distributed import together
    from seqbench.execution import several
    from seqbench.execution.schedule import check_writable, run_plan

    until = None if time_budget is None else time.time() + time_budget
    with together() as group:
        if not group.first:
            several.follow(group)
            return []
        chosen = several.choose(executor, group)
        planned = plan(models, datasets, dry_run=False, **options)
        if planned.todo:
            check_writable(planned.results)
        return run_plan(planned, executor=chosen, jobs=jobs, keep_weights=keep_weights, latency=latency, until=until)


def tune(
    models: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    *,
    trials: int = 20,
    space: Folder | None = None,
    sampler: str = "sobol",
    seed: int | None = None,
    prune: bool = True,
    executor: str = "process",
    jobs: int | None = None,
    time_budget: float | None = None,
    **options: Unpack[CellOptions],
) -> "list[Search]":
    """Search for better settings with the same number of trials for every model, judged by validation alone.

    The first trial of a model has its defaults. Each is a cell of the store: what was tried is not tried again, and an
    interrupted search goes on. `run(..., tuned=True)` then runs what was chosen.

    Args:
        models: names or references; None for all that are registered. Those that only count have nothing to search.
        datasets: names; None for all that are prepared.
        trials: of each model on each data set.
        space: a file that says what is searched; None for each model's own space.
        sampler: a name of `seqbench.tuning.samplers.SAMPLERS`: "sobol", or "tpe", which needs Optuna.
        seed: of the sampler, and of every trial; by default 1000, which is no usual seed of runs.
        prune: give trials up that are below the median of earlier ones after as many epochs.
        executor: "process" for a process per trial, or "inline" for this one.
        jobs: how many trials run at a time; it changes nothing in what is tried.
        time_budget: seconds from now, after which nothing is running any more; finished trials and epochs are kept.
        options: see `CellOptions`.

    Returns:
        A search for each data set and model: all trials that the store has of it (`trials`), and the `best`.

    Raises:
        UsageError: something that is named does not exist, or a space has what a model cannot be.
        SeqbenchError: trials failed for another reason than their settings.
        StorageError: results cannot be stored.
    """
    import time

    from seqbench import distributed, planning
    from seqbench.execution.schedule import check_writable, failed_summary, run_plan
    from seqbench.measuring.grid import LatencyGrid
    from seqbench.results import load_records
    from seqbench.settings import configure
    from seqbench.tuning import rounds, searches
    from seqbench.tuning.space import check_spaces, own_spaces, read_spaces

    distributed.refuse("A search")
    until = None if time_budget is None else time.time() + time_budget
    asked = _asked(models, datasets, options, dry_run=False)
    tunable = {name: entry for name, entry in asked.entries.items() if entry.cls.training_defaults}
    if left := asked.entries.keys() - tunable.keys():
        console.note(f"Nothing is trained by gradient, and so tuned, of {', '.join(sorted(left))}.")
    if not tunable:
        raise UsageError("There is nothing to tune.", hint="`seqbench list models` shows what is trained by gradient.")
    spaces = own_spaces(tunable, asked.overrides) if space is None else read_spaces(Path(space), tunable)
    check_spaces(spaces, tunable, asked.overrides)
    check_writable(asked.results)
    seed = rounds.SEED if seed is None else seed

    def hunt(define: "Callable[..., list[Definition]]", dataset: str, entry: "ModelEntry") -> rounds.Hunt:
        own = asked.overrides.get(entry.name, {})
        config, training = configure(entry, own, options.get("epochs"))
        defaults = {field: {**config, **(training or {})}[field] for field in spaces[entry.name]}

        def cell(settings: Mapping[str, Any]) -> "Definition":
            (definition,) = define([entry], [seed], preset=None, overrides={entry.name: {**own, **settings}})
            return definition

        return rounds.Hunt(f"{entry.name} on {dataset}", spaces[entry.name], defaults, cell)

    def run_cells(cells: "list[PlannedCell]") -> "list[Record]":
        plan = planning.Plan(cells, tunable, asked.home, asked.results, asked.places)
        nothing = LatencyGrid(lengths=())
        return run_plan(plan, executor=executor, jobs=jobs, keep_weights=False, latency=nothing, until=until)

    hunts = [hunt(define, prepared.name, entry) for prepared, _, define in asked.datasets for entry in tunable.values()]
    failed = rounds.search(hunts, asked.results, run_cells, trials=trials, sampler=sampler, seed=seed, prune=prune)
    if failed:
        raise failed_summary(failed, trials * len(hunts))
    records, _ = load_records(asked.results)
    found = [searches.searches(searches.on(records, prepared, protocol)) for prepared, protocol, _ in asked.datasets]
    return [by_model[name] for by_model in found for name in tunable if name in by_model]


def measure(
    results: Folder = RESULTS,
    *,
    everything: bool = False,
    epochs: int | None = None,
    points: Mapping[str, Any] | None = None,
    device: str | None = None,
    executor: str = "process",
    home: Folder | None = None,
    **selection: Unpack[SelectionOptions],
) -> "list[Record]":
    """Measure the costs of finished cells again: a few epochs of training from the stored weights, and latency.

    Only what was measured on a busy machine is repeated, unless `everything` is wanted. A repetition that is noisier
    than what it would replace is dropped. Accuracy, weights, peak memory and the time of the whole training stay.

    Args:
        results: the results store.
        everything: repeat quiet figures, too.
        epochs: of training that are timed; 3.
        points: fields of `LatencyGrid` that are to be others than in each cell, such as {"lengths": (64, 256)}.
        device: another one of the same kind, such as "cuda:1".
        executor: "process" for a process per cell, or "inline" for this one.
        home: the folder of prepared data sets.
        selection: see `SelectionOptions`. A model in a file of yours is named as "path/to/file.py:ClassName".

    Returns:
        The records of the cells that were measured.

    Raises:
        UsageError: no stored run of a name, or a device of another kind.
        SeqbenchError: there are no results, or a cell cannot be measured: on another machine, say.
    """
    from seqbench import distributed
    from seqbench.execution import again
    from seqbench.execution.schedule import failed_summary
    from seqbench.models import external, find_model

    distributed.refuse("Measuring again")
    entries = [find_model(name) for name in selection.get("models") or () if external.is_file(name)]
    files = {entry.name: entry.reference for entry in entries}
    models = [name for name in selection.get("models") or () if not external.is_file(name)]
    chosen = _selection({**selection, "models": [*models, *files]}).apply(_runs(results))
    request = again.Request(
        results=Path(results),
        home=_home(home),
        everything=everything,
        epochs=again.EPOCHS if epochs is None else epochs,
        points=points or {},
        device=device,
        files=files,
    )
    todo = again.orders([run.record for run in chosen], request)
    records, failed = again.measure_all(todo, executor=executor)
    if failed:
        raise failed_summary(failed, len(todo))
    return records


def import_results(
    file: Folder,
    dataset: str,
    model: str,
    *,
    seed: int = 0,
    split: str | None = None,
    protocol: str = "fair",
    max_len: int | None = None,
    request_time: bool = False,
    force: bool = False,
    results: Folder = RESULTS,
    home: Folder | None = None,
) -> "Record":
    """Store ranked lists or ranks of another program as a finished cell, which reports mark as imported.

    Args:
        file: Parquet, CSV or TSV with a header, or a TREC run file; columns user, item, and position, rank or score,
            or user and rank. Users and items are those of the raw data.
        dataset: a prepared data set.
        model: what to call it.
        seed: of the other program's run.
        split: how it split; by default as the data set is split.
        protocol: what the file was made under: a name of seqbench.protocol.PROTOCOLS.
        max_len: most recent items that the model saw; by default as many as the data set says.
        request_time: whether the model knew when the next item was asked for.
        force: replace an earlier import.
        results: the results store.
        home: the folder of prepared data sets.

    Raises:
        UsageError: a name is unknown or taken.
        SeqbenchError: the file is damaged, or does not fit the data set or the protocol.
    """
    from seqbench.data.prepared import open_prepared
    from seqbench.protocol import choose
    from seqbench.results.foreign import import_file

    prepared = open_prepared(dataset, _home(home))
    split = split or prepared.splits[0]
    prepared.check_split(split)
    chosen = choose(protocol, split=split, max_len=max_len or prepared.max_len, request_time=request_time)
    return import_file(Path(file), prepared, model, chosen, results=Path(results), seed=seed, force=force)


def load_results(results: "Folder | Sequence[Folder]" = RESULTS) -> "pd.DataFrame":
    """Return stored results as a table, one row per cell.

    Raises:
        SeqbenchError: there are none.
    """
    from seqbench.results.frames import cells_frame

    return cells_frame(_runs(results))


def load_ranks(results: "Folder | Sequence[Folder]" = RESULTS) -> "pd.DataFrame":
    """Return the ranks of all stored results as a table, one row per cell and test user.

    Columns: dataset, model, seed, key, user_id, better (items with a higher score), ties (other items with the same).

    A cell whose ranks are missing or damaged is warned of and left out.

    Raises:
        SeqbenchError: there are no results.
    """
    from seqbench.results.frames import ranks_frame

    return ranks_frame(run for run in _runs(results) if run.record.finished)


def report(
    results: "Folder | Sequence[Folder]" = RESULTS, format: str = "terminal", **options: Unpack[ReportOptions]
) -> str:
    """Return tables of accuracy and cost of the stored results, as text.

    Args:
        results: the results store, or several that are reported together.
        format: "terminal", "latex", "markdown", "csv" or "json"; a name of seqbench.reporting.formats.FORMATS.
        options: see `ReportOptions`.

    Raises:
        UsageError: no such format, metric or table, or no stored run of a name.
        SeqbenchError: there are no results.
    """
    from seqbench.reporting.formats import FORMATS, as_text

    render = FORMATS[format]
    return as_text(render(make_report(results, **options)))


def make_report(results: "Folder | Sequence[Folder]" = RESULTS, **options: Unpack[ReportOptions]) -> "Report":
    """Return the tables of stored results as a document, which a format of `FORMATS` renders.

    Raises:
        UsageError: no such metric or table, or no stored run of a name.
        SeqbenchError: there are no results.
    """
    from seqbench.models import MODELS
    from seqbench.reporting.costs import STATISTICS
    from seqbench.reporting.significance import BASELINES
    from seqbench.reporting.tables import DEFAULT_METRICS, DEFAULT_TABLES, build_report

    runs = _runs(results)
    chosen = _selection(options).apply(runs)
    # A search belongs to the runs that it was for, whatever their seeds.
    of_all_seeds = replace(_selection(options), seeds=())
    trials = [run for run in of_all_seeds.apply(runs) if run.record.status == "trial"]
    return build_report(
        [*(run for run in chosen if run.record.status != "trial"), *trials],
        options.get("metrics") or DEFAULT_METRICS,
        list(MODELS),
        options.get("baselines") or BASELINES,
        options.get("tables") or DEFAULT_TABLES,
        options.get("on") or "test",
        _home(options.get("home")),
        options.get("percentiles") or STATISTICS[:1],
    )


def load(run: Folder, *, model: str | None = None, device: str = "cpu", results: Folder = RESULTS) -> "TrainedModel":
    """Return the trained model of a finished run, which recommends for raw item ids.

    Args:
        run: its folder, results/<data set>/<model>/<key>; `load_results` has it in the column "path". Or
            "<data set>/<model>" for the run of that model whose validation is best.
        model: where the class is, for a model in a file of yours; weights alone never execute one.
        device: where to put it.
        results: the results store that "<data set>/<model>" is looked up in.

    Raises:
        SeqbenchError: it is not finished, has no weights, or is damaged.
        UsageError: there is no such run, or the model's code cannot be found, or has changed.
    """
    from seqbench.inference.runs import find_run
    from seqbench.inference.trained import TrainedModel

    return TrainedModel.load(find_run(run, Path(results)), model=model, device=device)


class _Asked(NamedTuple):
    """What cells are asked for, besides their seeds and what is changed of their models."""

    entries: "dict[str, ModelEntry]"
    home: Path
    results: Path
    places: list[str]  # devices
    overrides: dict[str, dict[str, Any]]
    datasets: "list[tuple[PreparedDataset, Protocol, Callable[..., list[Definition]]]]"  # with `planning.define` for it


def _asked(
    models: str | Sequence[str] | None,
    datasets: str | Sequence[str] | None,
    options: CellOptions,
    *,
    dry_run: bool,
) -> _Asked:
    import torch

    from seqbench import device as devices
    from seqbench import planning
    from seqbench import precision as precisions
    from seqbench.data.chosen import datasets_of_run
    from seqbench.distributed import world_size
    from seqbench.protocol import choose
    from seqbench.settings import parse_settings

    entries = planning.parse_models(_list(models))
    home, results = _home(options.get("home")), Path(options.get("results", RESULTS))
    places = [str(each) for each in devices.resolve_all(options.get("device", "auto"))]
    precision = options.get("precision", "fp32")
    precisions.check(precision, torch.device(places[0]))
    overrides = parse_settings(options.get("settings", {}), entries)
    found: list[tuple[PreparedDataset, Protocol, Callable[..., list[Definition]]]] = []
    for prepared in datasets_of_run(_list(datasets), home, dry_run=dry_run):
        split = options.get("split") or prepared.splits[0]
        protocol = choose(
            options.get("protocol", "fair"),
            split=split,
            max_len=options.get("max_len") or prepared.max_len,
            request_time=options.get("request_time", False),
        )
        prepared.check_split(split)
        if protocol.name == "recbole" and prepared.ties != "recbole":
            console.warn(
                f"{prepared.name} is in the order of time. RecBole's own figures are of data in the order of time in "
                f"float32, which `seqbench prepare {prepared.name} --ties recbole` makes."
            )
        define = partial(
            planning.define,
            prepared,
            protocol=protocol,
            epochs=options.get("epochs"),
            device=places[0],
            backend=options.get("backend", "auto"),
            precision=precision,
            world_size=world_size(),
        )
        found.append((prepared, protocol, define))
    return _Asked(entries, home, results, places, overrides, found)


def _tuned(
    records: "Sequence[Record]", entries: "Mapping[str, ModelEntry]", prepared: "PreparedDataset", protocol: "Protocol"
) -> dict[str, dict[str, Any]]:
    """Return the settings that searches have chosen: model → field → value.

    Raises:
        UsageError: a model that is trained by gradient was not searched there, as its code is now.
    """
    from seqbench.results.records import REVISION
    from seqbench.tuning import searches

    found = searches.searches(searches.on(records, prepared, protocol))
    chosen = {}
    for name, entry in entries.items():
        if entry.cls.training_defaults is None:
            continue
        best = found[name].best if name in found else None
        if best is None or searches.code_of(best.definition) != (entry.source, REVISION):
            raise UsageError(
                f"No trial of {name} on {prepared.name} ({protocol.name}, {protocol.split}, maximum length "
                f"{protocol.max_len}) has a figure.",
                hint=f"Search first: `seqbench tune --models {entry.reference} --datasets {prepared.name}`.",
            )
        chosen[name] = searches.settings_of(best.definition)
    return chosen


def _selection(options: SelectionOptions) -> "Selection":
    from seqbench.reporting.selection import Selection

    return Selection(
        datasets=tuple(options.get("datasets") or ()),
        models=tuple(options.get("models") or ()),
        protocols=tuple(options.get("protocols") or ()),
        splits=tuple(options.get("splits") or ()),
        seeds=tuple(map(str, options.get("seeds") or ())),
    )


def _runs(results: "Folder | Sequence[Folder]") -> "list[StoredRun]":
    """Return stored runs; those that cannot be used are warned of.

    Raises:
        SeqbenchError: a store has none.
    """
    from seqbench import console
    from seqbench.reporting.runs import load_runs
    from seqbench.results import RECORD

    stores = [Path(results)] if isinstance(results, str | Path) else [Path(each) for each in results]
    runs, errors = load_runs(*stores)
    for error in errors:
        console.warn(error.message)
    if not runs and errors:
        raise errors[0]
    for store in stores:
        if not any(store.glob(f"*/*/*/{RECORD}")):
            raise SeqbenchError(f"There are no results in {store}.", hint="Run `seqbench run` first.")
    return runs


def _protocol(protocol: "str | Protocol", max_len: int) -> "Protocol":
    from seqbench.protocol import choose

    return choose(protocol, split="leave-one-out", max_len=max_len) if isinstance(protocol, str) else protocol


def _home(home: Folder | None) -> Path:
    return paths.home(None if home is None else Path(home))


def _list(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    found = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not found:
        raise UsageError("Nothing is named.", hint="Leave it out for all.")
    return found
