"""Records → tables. Everything a report says is decided here; renderers only write it down."""

from collections.abc import Sequence
from typing import Any

from seqbench.errors import SeqbenchError, unknown_name
from seqbench.evaluation.metrics import STANDARD as METRICS
from seqbench.protocol import Protocol
from seqbench.report.cells import metric_cell
from seqbench.report.costs import cost_tables, hardware_words
from seqbench.report.document import CEILING, FAILED, Column, Report, Row, Section, Table, TableCell, metric_title
from seqbench.report.variants import Variant, group_variants, order_models
from seqbench.results import Record
from seqbench.show import numbers

DEFAULT_METRICS = ("hr@10", "ndcg@10", "mrr@10")


def build_report(
    records: Sequence[Record],
    metrics: Sequence[str] = DEFAULT_METRICS,
    model_order: Sequence[str] = (),
) -> Report:
    """Group records into sections and tables.

    One section holds one data set (by fingerprint) under one protocol, so that nothing is compared across
    either. `model_order` is the order of the rows; models that it does not list follow alphabetically.

    Raises:
        SeqbenchError: there are no records.
        UsageError: no record has such a metric.
    """
    if not records:
        raise SeqbenchError("There are no results to report.", hint="Measure something first: `seqbench run`.")
    chosen = _check_metrics(metrics or DEFAULT_METRICS, records)

    groups: dict[tuple[str, str, Protocol], list[Record]] = {}
    for record in records:
        definition = record.definition
        groups.setdefault((definition.dataset, definition.fingerprint, definition.protocol), []).append(record)
    fingerprints = {(dataset, fingerprint) for dataset, fingerprint, _ in groups}
    sections = []
    for key in sorted(groups, key=lambda group: (group[0], group[1], repr(group[2]))):
        section = _section(groups[key], chosen, model_order)
        section.ambiguous = sum(dataset == key[0] for dataset, _ in fingerprints) > 1
        sections.append(section)

    started = sorted(record.started for record in records)
    return Report(
        metrics=chosen,
        models=order_models((record.definition.model for record in records), model_order),
        sections=sections,
        commits=_distinct(record.environment.get("git_commit") for record in records),
        first=started[0],
        last=started[-1],
    )


def _check_metrics(metrics: Sequence[str], records: Sequence[Record]) -> list[str]:
    known = [*METRICS]
    known += sorted({metric for record in records for metric in record.accuracy} - set(known))
    chosen = [metric.strip().lower() for metric in metrics]
    for metric in chosen:
        if metric not in known:
            raise unknown_name("Metric", metric, known, "seqbench report --help")
    return list(dict.fromkeys(chosen))


def _section(records: Sequence[Record], metrics: Sequence[str], model_order: Sequence[str]) -> Section:
    variants = group_variants(records, model_order)
    trained = [record for variant in variants if variant.trained for record in variant.records]
    facts = next((record.dataset for record in records if record.dataset), {})
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
        _accuracy_table(variants, metrics, section.seeds, ceiling),
        *cost_tables(records, section.seeds, model_order),
    ]
    return section


def _accuracy_table(
    variants: Sequence[Variant], metrics: Sequence[str], seeds: Sequence[int], ceiling: dict[str, Any] | None
) -> Table:
    table = Table("accuracy", "Accuracy", [Column(metric, metric_title(metric), "up") for metric in metrics])
    for variant in variants:
        cells = {metric: _accuracy_cell(table, variant, metric) for metric in metrics}
        row = Row(variant.model, variant.configuration, cells)
        row.notes = [table.note(text) for text in variant.remarks(seeds)]
        table.rows.append(row)
    if ceiling:
        cells = {metric: _ceiling_cell(ceiling.get(metric)) for metric in metrics}
        table.rows.append(Row(CEILING, "generating process", cells, ranked=False))
    table.mark()
    return table


def _accuracy_cell(table: Table, variant: Variant, metric: str) -> TableCell:
    found = {str(r.definition.seed): numbers.number(r.accuracy.get(metric)) for r in variant.finished}
    values = {seed: value for seed, value in found.items() if value is not None}
    if values:
        return metric_cell(values)
    reason = f"{metric_title(metric)} was not recorded" if variant.finished else variant.failure_words()
    return TableCell(FAILED, notes=[table.note(reason)])


def _ceiling_cell(value: Any) -> TableCell:
    value = numbers.number(value)
    if value is None:
        return TableCell("")
    return TableCell(numbers.fixed(value, numbers.METRIC_DECIMALS), mean=value, n=1)


def _software(environment: dict[str, Any]) -> str:
    names = {
        "seqbench": "seqbench",
        "torch": "PyTorch",
        "cuda": "CUDA",
        "driver": "driver",
        "python": "Python",
    }
    return ", ".join(f"{name} {environment[key]}" for key, name in names.items() if environment.get(key))


def _distinct(values: Any) -> list[str]:
    return sorted({str(value) for value in values if value})
