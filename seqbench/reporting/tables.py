"""Runs → tables. Everything a report says is decided here; renderers only write it down."""

from collections.abc import Iterable, Sequence
from typing import Any

from seqbench.errors import SeqbenchError
from seqbench.evaluation.metrics import STANDARD, Measure, parse
from seqbench.protocol import Protocol
from seqbench.reporting.cells import metric_cell
from seqbench.reporting.costs import cost_tables, hardware_words
from seqbench.reporting.document import CEILING, FAILED, Column, Report, Row, Section, Table, TableCell
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.significance import BASELINES, mark_accuracy
from seqbench.reporting.variants import Variant, group_variants, order_models, seed_list
from seqbench.show.numbers import fixed, number
from seqbench.show.text import printable

DEFAULT_METRICS = ("hr@10", "ndcg@10", "mrr@10")


def build_report(
    runs: Sequence[StoredRun],
    metrics: Sequence[str] = DEFAULT_METRICS,
    model_order: Sequence[str] = (),
    baselines: Sequence[str] = BASELINES,
) -> Report:
    """Group runs into sections and tables.

    One section holds one data set (by fingerprint) under one protocol, so that nothing is compared across
    either. Metrics are computed from the ranks of each test user; where a run has none, the means of its record stand
    in for them.

    Args:
        metrics: such as "hr@10", "recall@50", "mrr", "rank"; see seqbench/evaluation/metrics.py.
        model_order: the order of the rows; models that it does not list follow alphabetically.
        baselines: models that the others are tested against.

    Raises:
        SeqbenchError: there are no runs.
        UsageError: there is no such metric.
    """
    if not runs:
        raise SeqbenchError("There are no results to report.", hint="Measure something first: `seqbench run`.")
    measures = list({measure.key: measure for measure in map(parse, metrics or DEFAULT_METRICS)}.values())

    groups: dict[tuple[str, str, Protocol], list[StoredRun]] = {}
    for run in runs:
        definition = run.record.definition
        groups.setdefault((definition.dataset, definition.fingerprint, definition.protocol), []).append(run)
    fingerprints = {(dataset, fingerprint) for dataset, fingerprint, _ in groups}
    sections = []
    for key in sorted(groups, key=lambda group: (group[0], group[1], repr(group[2]))):
        section = _section(groups[key], measures, model_order, baselines)
        section.ambiguous = sum(dataset == key[0] for dataset, _ in fingerprints) > 1
        sections.append(section)

    started = sorted(run.record.started for run in runs)
    return printable(
        Report(
            metrics=[measure.key for measure in measures],
            models=order_models((run.record.definition.model for run in runs), model_order),
            sections=sections,
            commits=_distinct(run.record.environment.get("git_commit") for run in runs),
            first=started[0],
            last=started[-1],
        )
    )


def _section(
    runs: Sequence[StoredRun], measures: Sequence[Measure], model_order: Sequence[str], baselines: Sequence[str]
) -> Section:
    records = [run.record for run in runs]
    variants = group_variants(runs, model_order)
    trained = [record for variant in variants if variant.trained for record in variant.records]
    facts = next((dict(record.dataset) for record in records if record.dataset), {})
    definition = records[0].definition
    section = Section(
        dataset=definition.dataset,
        fingerprint=definition.fingerprint,
        protocol=definition.protocol,
        facts={key: value for key, value in facts.items() if key not in ("ceiling", "count_mismatch")},
        seeds=sorted({record.definition.seed for record in trained or records}),
        hardware=_distinct(hardware_words(record) for record in records),
        software=_distinct(_software(record.environment) for record in records),
        warnings=_distinct(record.dataset.get("count_mismatch") for record in records),
        deterministic=any(not variant.trained for variant in variants),
    )
    ceiling = next((c for record in records if (c := record.dataset.get("ceiling"))), None)
    section.tables = [
        _accuracy_table(variants, measures, section.seeds, baselines, ceiling),
        *cost_tables(variants, section.seeds),
    ]
    section.warnings += [f"{run.problem} The means of its record are shown." for run in runs if run.problem]
    return section


def _accuracy_table(
    variants: Sequence[Variant],
    measures: Sequence[Measure],
    seeds: Sequence[int],
    baselines: Sequence[str],
    ceiling: dict[str, Any] | None,
) -> Table:
    columns = [Column(measure.key, measure.title, measure.metric.direction) for measure in measures]
    table = Table("accuracy", "Accuracy", columns)
    for variant in variants:
        row = Row(variant.model, variant.configuration, {})
        row.notes = [table.note(text) for text in variant.remarks(seeds)]
        for measure in measures:
            row.cells[measure.key] = _accuracy_cell(table, row, variant, measure)
        table.rows.append(row)
    if ceiling:
        cells = {measure.key: _ceiling_cell(ceiling.get(measure.key), measure) for measure in measures}
        table.rows.append(Row(CEILING, "generating process", cells, ranked=False))
    mark_accuracy(table, variants, measures, baselines)
    return table


def _accuracy_cell(table: Table, row: Row, variant: Variant, measure: Measure) -> TableCell:
    found = {run.seed: run.test_value(measure) for run in variant.runs if run.record.finished}
    values = {str(seed): value for seed, value in found.items() if value is not None}
    missing = [seed for seed, value in found.items() if value is None]
    reason = (
        f"{measure.title} needs the ranks, which were not kept"
        if measure.key not in STANDARD
        else (f"{measure.title} was not recorded")
    )
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
