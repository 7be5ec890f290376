"""Runs → tables. Everything a report says is decided here; renderers only write it down."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqbench.errors import SeqbenchError, unknown_name
from seqbench.evaluation.metrics import STANDARD, Measure, parse
from seqbench.protocol import Protocol
from seqbench.registry import Registry
from seqbench.reporting.beyond import beyond_table, bucket_tables
from seqbench.reporting.cells import metric_cell
from seqbench.reporting.costs import STATISTICS, cost_tables, hardware_words, latency_tables, size_tables
from seqbench.reporting.document import CEILING, FAILED, Column, Report, Row, Section, Table, TableCell
from seqbench.reporting.material import Material
from seqbench.reporting.published import published_table
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.significance import BASELINES, mark_accuracy
from seqbench.reporting.tuning import tuning_tables
from seqbench.reporting.variants import Variant, group_variants, order_models, seed_list
from seqbench.results import Definition
from seqbench.show.numbers import fixed, number
from seqbench.show.text import printable
from seqbench.tuning.searches import Searches, searches

if TYPE_CHECKING:
    from seqbench.evaluation.background import Background

DEFAULT_METRICS = ("hr@10", "ndcg@10", "mrr@10")
FEW_USERS = 100  # a test set of fewer says little


# Kinds of tables, in the order in which they are shown; each makes any number of them. DEFAULT_TABLES are shown unless
# others are asked for.
TABLES: Registry[Callable[[Material], list[Table]]] = Registry(
    "Table",
    {
        "accuracy": lambda material: [accuracy_table(material)],
        "cost": lambda material: cost_tables(material.variants, material.seeds),
        "latency": lambda material: latency_tables(material.variants, material.seeds, material.percentiles),
        "size": lambda material: size_tables(material.variants, material.seeds),
        "published": lambda material: [published_table(material.variants, material.measures, material.seeds)],
        "beyond": lambda material: [beyond_table(material)],
        "buckets": bucket_tables,
        "tuning": lambda material: tuning_tables(list(material.searches.values())),
    },
    "seqbench report --help",
)
DEFAULT_TABLES = ("accuracy", "cost", "latency", "tuning")


def build_report(
    runs: Sequence[StoredRun],
    metrics: Sequence[str] = DEFAULT_METRICS,
    model_order: Sequence[str] = (),
    baselines: Sequence[str] = BASELINES,
    tables: Sequence[str] = DEFAULT_TABLES,
    on: Literal["test", "valid"] = "test",
    home: Path | None = None,
    percentiles: Sequence[str] = STATISTICS[:1],
) -> Report:
    """Group runs into sections and tables.

    One section holds one data set (by fingerprint) under one protocol, so that nothing is compared across
    either. Metrics are computed from the ranks of each test user; where a run has none, the means of its record stand
    in for them.

    Args:
        metrics: such as "hr@10", "recall@50", "mrr", "rank"; see seqbench/evaluation/metrics.py.
        model_order: the order of the rows; models that it does not list follow alphabetically.
        baselines: models that the others are tested against.
        tables: names of TABLES.
        on: whose accuracy is shown, that of the test or of the validation targets.
        home: the folder with prepared data sets, which some tables need.
        percentiles: of latency, that pages show: some of "p50", "p95" and "p99".

    Raises:
        SeqbenchError: there are no runs.
        UsageError: there is no such metric, table or percentile.
    """
    if not runs:
        raise SeqbenchError("There are no results to report.", hint="Measure something first: `seqbench run`.")
    measures = list({measure.key: measure for measure in map(parse, metrics or DEFAULT_METRICS)}.values())

    for name in tables:
        _ = TABLES[name]  # or say which there are
    for name in percentiles:
        if name not in STATISTICS:
            raise unknown_name("Percentile", name, STATISTICS, "seqbench report --help")
    wanted = [name for name in TABLES if name in tables]

    groups: dict[tuple[str, str, Protocol], list[StoredRun]] = {}
    for run in runs:
        definition = run.record.definition
        groups.setdefault((definition.dataset, definition.fingerprint, definition.protocol), []).append(run)
    fingerprints = {(dataset, fingerprint) for dataset, fingerprint, _ in groups}
    material = partial(Material, measures=measures, baselines=baselines, on=on, percentiles=percentiles)
    sections, found = [], []
    for key in sorted(groups, key=lambda group: (group[0], group[1], repr(group[2]))):
        searched = searches(run.record for run in groups[key])
        searched = {name: searched[name] for name in order_models(searched, model_order)}
        run_to_end = [run for run in groups[key] if run.record.finished or run.record.trial is None]
        variants, common = group_variants(run_to_end, model_order, searched)
        found.append(variants)
        section = _section(variants, common, searched, material, wanted if variants else ["tuning"], home)
        section.ambiguous = sum(dataset == key[0] for dataset, _ in fingerprints) > 1
        sections.append(section)

    started = sorted(run.record.started for run in runs)
    report = printable(
        Report(
            metrics=[measure.key for measure in measures],
            models=order_models((run.record.definition.model for run in runs), model_order),
            sections=sections,
            commits=_distinct(run.record.environment.get("git_commit") for run in runs),
            first=started[0],
            last=started[-1],
        )
    )
    for section, variants in zip(report.sections, found, strict=True):
        section.variants = variants
    return report


def _section(
    variants: Sequence[Variant],
    common: str,
    searches: Searches,
    material: Callable[..., Material],
    tables: Sequence[str],
    home: Path | None,
) -> Section:
    runs = [run for variant in variants for run in variant.runs]
    records = [run.record for run in runs] or [record for each in searches.values() for record in each.trials]
    trained = [record for variant in variants if variant.trained for record in variant.records]
    facts = next((dict(record.dataset) for record in records if record.dataset), {})
    definition = records[0].definition
    section = Section(
        dataset=definition.dataset,
        fingerprint=definition.fingerprint,
        protocol=definition.protocol,
        facts={key: value for key, value in facts.items() if key not in ("ceiling", "count_mismatch")},
        seeds=sorted({record.definition.seed for record in trained or records}),
        hardware=_distinct(hardware_words(record) for record in records if record.environment),
        software=_distinct(_software(record.environment) for record in records),
        warnings=_distinct(record.dataset.get("count_mismatch") for record in records),
        common=common,
        deterministic=any(not variant.trained and not variant.imported for variant in variants),
    )
    read = partial(_background, definition, home)
    made = material(variants=variants, seeds=section.seeds, searches=searches, read=read)
    section.tables = [table for name in tables for table in TABLES[name](made)]
    section.warnings += made.warnings
    section.warnings += [f"{run.problem} The means of its record are shown." for run in runs if run.problem]
    users = section.facts.get("evaluated_users")
    if isinstance(users, int) and users < FEW_USERS:
        section.warnings.append(f"Only {users} users are tested: differences are mostly chance.")
    return section


def _background(definition: Definition, home: Path | None) -> "Background":
    from seqbench import paths
    from seqbench.evaluation.background import read_background

    return read_background(definition.dataset, definition.fingerprint, definition.protocol.split, paths.home(home))


def accuracy_table(material: Material) -> Table:
    """Make the table of metrics, one row for each variant, with marks and tests."""
    variants, measures = material.variants, material.measures
    columns = [Column(measure.key, measure.title, measure.metric.direction) for measure in measures]
    table = Table("accuracy", "Accuracy" if material.on == "test" else "Accuracy on validation targets", columns)
    for variant in variants:
        row = Row(variant.model, variant.configuration, {})
        row.notes = [table.note(text) for text in variant.remarks(material.seeds)]
        for measure in measures:
            row.cells[measure.key] = _accuracy_cell(table, row, variant, measure, material.on)
        table.rows.append(row)
    if material.on == "valid":
        table.mark()
        return table
    records = [record for variant in variants for record in variant.records]
    if ceiling := next((found for record in records if (found := record.dataset.get("ceiling"))), None):
        cells = {measure.key: _ceiling_cell(ceiling.get(measure.key), measure) for measure in measures}
        table.rows.append(Row(CEILING, "generating process", cells, ranked=False))
    mark_accuracy(table, variants, measures, material.baselines)
    return table


def _accuracy_cell(table: Table, row: Row, variant: Variant, measure: Measure, on: str) -> TableCell:
    value_of = StoredRun.test_value if on == "test" else StoredRun.validation_value
    found = {run.seed: value_of(run, measure) for run in variant.runs if run.record.finished}
    values = {str(seed): value for seed, value in found.items() if value is not None}
    missing = [seed for seed, value in found.items() if value is None]
    if not all(run.knows(measure) for run in variant.runs):
        reason = f"{measure.title} needs longer lists than were imported"
    elif measure.key not in STANDARD:
        reason = f"{measure.title} needs the ranks, which were not kept"
    else:
        reason = f"{measure.title} was not recorded"
    if values:
        if missing:
            row.notes.append(table.note(f"without {seed_list(missing)}: {reason}"))
        return metric_cell(values, measure.metric.decimals)
    return TableCell(FAILED, notes=[table.note(reason if found else variant.failure_words())])


def _ceiling_cell(value: Any, measure: Measure) -> TableCell:
    value = number(value)
    if value is None:
        return TableCell("")
    return TableCell(fixed(value, measure.metric.decimals), mean=value, n=1)


def _software(environment: Any) -> str:
    names = {
        "seqbench": "seqbench",
        "torch": "PyTorch",
        "cuda": "CUDA",
        "driver": "driver",
        "python": "Python",
    }
    values = dict(environment)
    return ", ".join(f"{name} {values[key]}" for key, name in names.items() if values.get(key))


def _distinct(values: Iterable[Any]) -> list[str]:
    return sorted({str(value) for value in values if value})
