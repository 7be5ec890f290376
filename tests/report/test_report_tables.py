"""What a report says: grouping, averages, marks, footnotes."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from reportkit import printed, report_of

from seqbench.errors import SeqbenchError, UsageError
from seqbench.protocol import PROTOCOLS, Protocol
from seqbench.reporting.csv_json import render_csv
from seqbench.reporting.document import Table
from seqbench.reporting.latex import render_latex
from seqbench.reporting.markdown import render_markdown
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.terminal import render_terminal
from seqbench.reporting.variants import group_variants


def accuracy(report, section=0) -> Table:
    return report.sections[section].tables[0]


def row(table, label):
    return next(row for row in table.rows if label in (row.model, row.label))


def tables(report, kind, section=0):
    return [table for table in report.sections[section].tables if table.kind == kind]


def test_no_records_is_an_error_that_names_the_next_command():
    with pytest.raises(SeqbenchError) as caught:
        report_of([])
    assert "seqbench run" in caught.value.hint


def test_unknown_metric_is_a_usage_error_with_a_suggestion(make_record):
    with pytest.raises(UsageError, match=r"ndgc@10.*Did you mean ndcg@10"):
        report_of([make_record()], ["ndgc@10"])


def test_metrics_are_shown_in_the_order_asked_for(make_record):
    table = accuracy(report_of([make_record()], ["MRR@20", "hr@5", "mrr@20"]))
    assert [column.title for column in table.columns] == ["MRR@20", "HR@5"]


def test_seeds_are_averaged_with_sample_standard_deviation(make_record):
    cell = accuracy(report_of([make_record(seed=s, ndcg=v) for s, v in enumerate((0.1, 0.2, 0.4))])).rows[0].cells
    assert cell["ndcg@10"].text == "0.2333"
    assert cell["ndcg@10"].spread == "0.1528"  # sqrt(7/3) / 10
    assert cell["ndcg@10"].values == {"0": 0.1, "1": 0.2, "2": 0.4}


def test_one_seed_has_no_spread(make_record):
    assert accuracy(report_of([make_record()])).rows[0].cells["ndcg@10"].spread == ""


def test_figures_that_read_the_same_are_marked_together(make_record):
    values = {"a": 0.20001, "b": 0.2, "c": 0.1, "d": 0.10004, "e": 0.05}
    table = accuracy(report_of([make_record(model, ndcg=v) for model, v in values.items()], ["ndcg@10"]))
    cells = {each.model: each.cells["ndcg@10"] for each in table.rows}
    assert [model for model, cell in cells.items() if cell.best] == ["a", "b"]
    assert [model for model, cell in cells.items() if cell.second] == ["c", "d"]


def test_a_single_row_is_not_a_winner(make_record):
    assert not accuracy(report_of([make_record()])).rows[0].cells["ndcg@10"].best


def test_best_follows_the_direction_of_each_cost(make_record):
    report = report_of([make_record("small", cost_scale=0.5), make_record("large", cost_scale=2)])
    cells = row(tables(report, "cost")[0], "small").cells
    assert cells["epoch_seconds"].best
    assert cells["train_interactions_per_second"].best
    assert cells["peak_memory_bytes"].best
    assert not cells["parameters"].best
    assert not cells["parameters"].second


def test_a_figure_measured_on_a_busy_machine_says_so_and_does_not_compete(make_record):
    busy, fast, slow = (make_record(name, cost_scale=scale) for name, scale in (("a", 0.5), ("b", 1), ("c", 2)))
    busy.cost["conditions"] = {"seconds": 9.0, "disturbances": ["other processes kept 1.9 of 2 cores busy"]}
    (costs,) = tables(report_of([busy, fast, slow]), "cost")
    cells = {each.label: each.cells["epoch_seconds"] for each in costs.rows}
    assert [name for name, cell in cells.items() if cell.noise] == ["a"]
    assert costs.remarks[-1].startswith("~ measured while the machine was not quiet")
    assert costs.remarks[-1].endswith("at worst: other processes kept 1.9 of 2 cores busy.")
    assert (cells["a"].best, cells["b"].best, cells["c"].second) == (False, True, True)
    assert row(costs, "a").cells["fit_seconds"].best  # measured at another time, and not known to be noisy


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("conditions", {"disturbances": ["1 other process on the GPU"]}, "1 other process on the GPU"),
        ("unsteady", True, "the middle half of the samples spans more than 30 % of their median"),
    ],
)
def test_a_noisy_latency_says_so_and_does_not_compete(make_record, field, value, words):
    noisy, quiet = make_record("a", cost_scale=0.5), make_record("b")
    point = next(entry for entry in noisy.cost["latency"] if (entry["mode"], entry["batch"]) == ("whole", 1))
    point[field] = value
    table = tables(report_of([noisy, quiet]), "latency")[0]
    cell = row(table, "a").cells[str(point["length"])]
    assert not cell.best
    assert cell.noise == [words]
    assert words in table.remarks[-1]


def test_noisy_figures_are_marked_wherever_they_are_shown_and_the_worst_disturbance_is_named(make_record):
    made = [make_record(seed=seed) for seed in (0, 1)]
    for record, busy in zip(made, ("10.5", "9.5"), strict=True):
        record.cost["conditions"] = {"disturbances": [f"other processes kept {busy} of 16 cores busy"]}
    report = report_of(made, tables=["cost"])
    assert printed(render_terminal(report), 120).count("~4.40") == 1
    assert r"\~4.40" in render_markdown(report)
    assert r"$\sim$4.40" in render_latex(report)
    assert "noisy: other processes kept 9.5" in render_csv(report)
    assert "at worst: other processes kept 10.5 of 16 cores busy." in report.sections[0].tables[0].remarks[-1]


def test_protocols_fingerprints_and_lengths_never_share_a_section(make_record):
    report = report_of(
        [
            make_record(),
            make_record(fingerprint="000011112222"),
            make_record(protocol=Protocol(max_len=200)),
            make_record(protocol=Protocol(removed="nothing")),
            make_record(protocol=Protocol(split="temporal")),
        ]
    )
    assert len(report.sections) == 5
    assert {section.title for section in report.sections} == {"ml-100k [00001111]", "ml-100k [f1e2d3c4]"}


def test_results_of_different_protocols_never_stand_in_one_column(make_record):
    figures = {"fair": 0.1111, "lrurec": 0.2222, "recbole": 0.3333}
    report = report_of(
        [
            make_record(dataset=dataset, ndcg=figures[name], protocol=protocol)
            for dataset in ("ml-100k", "amazon-beauty")  # LaTeX puts data sets side by side
            for name, protocol in PROTOCOLS.items()
        ],
        ["ndcg@10"],
    )
    assert [section.protocol.name for section in report.sections] == list(PROTOCOLS) * 2
    parts = {
        "csv": [line for line in render_csv(report).splitlines() if ",accuracy," in line],
        "latex": [part for part in render_latex(report).split(r"\begin{table}") if "Accuracy" in part],
        "markdown": [part for part in re.split(r"^## ", render_markdown(report), flags=re.MULTILINE) if "NDCG" in part],
    }
    for name, found in parts.items():
        for part in found:
            (protocol,) = {own for own, value in figures.items() if f"{value:.4f}" in part or f",{value}," in part}
            assert (f",{protocol},leave-one-out," if name == "csv" else f"Protocol {protocol}: ") in part
        assert len(found) == (3 if name == "latex" else 6)


def test_every_protocol_is_described_in_words(make_record):
    words = {
        name: report_of([make_record(protocol=protocol)]).sections[0].protocol_words()
        for name, protocol in PROTOCOLS.items()
    }
    assert "seen items removed, epoch chosen by validation NDCG@10" in words["fair"]
    assert (
        "items of the input window removed, trained on LRURec's windows, epoch chosen by validation HR@10"
        in words["lrurec"]
    )
    assert "validation HR@10" in words["lrurec"]
    assert "seen items kept" in words["recbole"]


def test_a_row_says_how_it_was_trained_where_that_is_not_the_usual_way(make_record):
    plain, sampled = make_record("lrurec"), make_record("sigma")
    assert sampled.definition.training is not None
    sampled.definition.training.update(objective="prefix", loss="gbce", negatives=64)
    report = report_of([plain, sampled])
    for table in (accuracy(report), tables(report, "cost")[0]):
        said = {each.model: [table.footnotes[note] for note in each.notes] for each in table.rows}
        assert said == {"lrurec": [], "sigma": ["trained on prefixes, loss gbce with 64 negatives"]}


def test_a_model_trained_on_prefixes_has_no_windows_like_lrurecs(make_record):
    record = make_record("sigma", protocol=PROTOCOLS["lrurec"])
    record.definition.training.update(objective="prefix")
    assert accuracy(report_of([record])).footnotes == ["trained on prefixes, not on LRURec's windows"]


def test_configurations_are_rows_of_their_own_named_by_what_differs(make_record):
    table = accuracy(
        report_of(
            [
                make_record(config={"dropout": 0.2, "width": 64}),
                make_record(config={"dropout": 0.5, "width": 64}),
                make_record("sasrec", config={"dropout": 0.5}),
            ]
        )
    )
    assert [each.label for each in table.rows] == ["LRURec (dropout=0.2)", "LRURec (dropout=0.5)", "SASRec"]


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "cuda"},
        {"backend": "torch"},
        {"source": "0123abc"},
        {"precision": "bf16"},
        {"world_size": 2},
        {"revision": 99},
    ],
)
def test_seeds_of_other_definitions_are_never_averaged(make_record, changed):
    here, there = make_record(ndcg=0.1), make_record(seed=1, ndcg=0.3)
    there = replace(there, definition=replace(there.definition, **changed))
    variants, _ = group_variants([StoredRun(record) for record in (here, there)], [])
    assert [len(variant.runs) for variant in variants] == [1, 1]
    assert len({variant.configuration for variant in variants}) == 2


def test_what_is_not_a_default_is_named_everywhere_even_if_it_is_the_only_variant(make_record):
    plain = make_record("sasrec", changes={"config": {}, "training": {}})
    small = [
        make_record(
            dataset=dataset, config={"hidden_size": size, "dropout": 0.5}, changes={"config": {"hidden_size": size}}
        )
        for dataset, size in (("ml-100k", 8), ("amazon-beauty", 16))
    ]
    report = report_of([plain, *small])
    assert [each.label for each in accuracy(report, 1).rows] == ["LRURec (hidden_size=8)", "SASRec"]
    assert [each.label for each in tables(report, "cost", 1)[0].rows] == ["LRURec (hidden_size=8)", "SASRec"]
    for text in (render_markdown(report), render_latex(report)):  # LaTeX has both data sets in one table
        assert len(re.findall(r"LRURec \(hidden\\?_size=8\)", text)) >= 3
        assert len(re.findall(r"LRURec \(hidden\\?_size=16\)", text)) >= 3
        assert not re.search(r"lrurec (?!\()", text)


def test_the_default_variant_keeps_the_plain_name_beside_others(make_record):
    changes = {"config": {}, "training": {"lr": 0.01}}
    faster = make_record(changes=changes)
    faster.definition.training["lr"] = 0.01
    older = make_record(config={"width": 32})
    default = make_record(changes={"config": {}, "training": {}})
    labels = [each.label for each in accuracy(report_of([default, faster])).rows]
    assert labels == ["LRURec", "LRURec (lr=0.01)"]
    labels = [each.label for each in accuracy(report_of([default, faster, older])).rows]
    assert labels == ["LRURec", "LRURec (lr=0.01)", "LRURec (width=32, lr=0.001)"]
    other_default = make_record(config={"width": 128}, changes={"config": {}, "training": {}})
    labels = [each.label for each in accuracy(report_of([default, other_default])).rows]
    assert labels == ["LRURec (width=128)", "LRURec (width=64)"]


def test_a_form_that_is_not_the_papers_is_named_even_if_it_is_the_only_one(make_record):
    for setting in ("causal", "official_quirks"):
        labels = [
            [each.label for each in accuracy(report_of([make_record("linrec", config={setting: value})])).rows]
            for value in (True, False)
        ]
        assert labels == [[f"LinRec ({setting}=true)"], ["LinRec"]]


def test_settings_of_the_same_name_keep_their_origin(make_record):
    first, second = make_record(config={"lr": 1}), make_record(config={"lr": 2})
    second.definition.training["lr"] = 0.01
    labels = [each.configuration for each in accuracy(report_of([first, second])).rows]
    assert labels == ["config.lr=1, training.lr=0.001", "config.lr=2, training.lr=0.01"]


def test_models_follow_the_given_order_then_the_alphabet(make_record):
    made = [make_record(model) for model in ("b", "a", "lrurec", "markov")]
    assert report_of(made, model_order=["markov", "lrurec"]).models == ["markov", "lrurec", "a", "b"]


def test_failed_cells_carry_a_footnote_that_names_the_failure(records):
    table = accuracy(report_of(records))
    cell = row(table, "sigma").cells["ndcg@10"]
    assert (cell.text, cell.mean) == ("--", None)
    assert "out-of-memory" in table.footnotes[cell.notes[0]]


def test_finished_seeds_are_shown_beside_failed_ones(records):
    table = accuracy(report_of(records))
    sasrec = row(table, "sasrec")
    assert sasrec.cells["ndcg@10"].text == "0.0500"
    note = table.footnotes[sasrec.notes[0]]
    assert note.startswith("seed 1 failed: non-finite")
    assert note.endswith("the figures are those of seed 0")


def test_fewer_seeds_than_the_others_is_said(make_record):
    made = [*(make_record(seed=seed) for seed in range(3)), make_record("sasrec")]
    table = accuracy(report_of(made))
    assert [table.footnotes[note] for note in row(table, "sasrec").notes] == ["seed 0 only"]
    assert row(table, "lrurec").notes == []


def test_costs_say_which_seeds_they_are_of_too(make_record):
    report = report_of([*(make_record(seed=seed) for seed in range(3)), make_record("sasrec")])
    for table in (tables(report, "cost")[0], tables(report, "latency")[0]):
        said = {each.model: [table.footnotes[note] for note in each.notes] for each in table.rows}
        assert said == {"lrurec": [], "sasrec": ["seed 0 only"]}


def test_a_latency_that_only_some_seeds_have_says_so(make_record):
    first, second = make_record(seed=0), make_record(seed=1)
    second.cost["latency"].remove(next(e for e in second.cost["latency"] if e["length"] == 4096))
    second.cost["latency_skipped"].append({"mode": "whole", "batch": 1, "length": 4096, "reason": "out of memory"})
    table = tables(report_of([first, second]), "latency")[0]
    partly, *others = table.rows
    assert partly.cells["4096"].n == 1
    assert [table.footnotes[note] for note in partly.notes] == ["at length 4,096 without seed 1: out of memory"]
    assert not any(each.notes for each in others)


def test_steps_from_a_state_that_grows_say_so(make_record):
    grows = make_record("sasrec")
    steps = [{**entry, "mode": "step"} for entry in grows.cost["latency"] if entry["batch"] == 1 and entry["length"]]
    grows.cost["latency"] = [entry for entry in grows.cost["latency"] if entry["mode"] == "whole"] + steps
    table = tables(report_of([make_record("lrurec"), grows]), "latency")[0]
    said = {(each.model, each.mode, table.footnotes[note]) for each in table.rows for note in each.notes}
    assert said == {("sasrec", "step", "the state grows with the history")}


def test_a_quantile_of_too_few_samples_is_no_figure(make_record):
    record = make_record()
    for entry in record.cost["latency"]:
        entry["p99_ms"] = None if (entry["length"] or 0) >= 4096 else entry["p99_ms"]
    median, _, tail = tables(report_of([record]), "latency")
    assert all(cell.n for cell in median.rows[0].cells.values())
    cells = tail.rows[0].cells
    assert cells["2048"].n == 1
    assert (cells["4096"].text, cells["4096"].n) == ("--", 0)
    assert [tail.footnotes[note] for note in cells["4096"].notes] == ["too few samples"]
    lines = [line for line in render_csv(report_of([record])).splitlines() if "latency_p99,whole,1,4096," in line]
    assert [line.split(",")[-9:-5] for line in lines] == [["", "", "0", "too few samples"]]


@pytest.mark.parametrize("best", [12, 20])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_training_that_its_limit_of_epochs_ended_is_noted(make_record, best, stopped):
    record = make_record(epochs=20, best_epoch=best)
    record.training["stopped_early"] = stopped
    report = report_of([record])
    for table in (accuracy(report), tables(report, "cost")[0]):
        assert table.footnotes == ([] if stopped else ["ended at its limit of epochs: more may help"])


def test_models_that_only_count_do_not_compete_for_costs(records):
    table = tables(report_of(records), "cost")[0]
    assert table.rows[-1].model == "popularity"
    assert not any(cell.best or cell.second for cell in table.rows[-1].cells.values())
    assert row(table, "LinRec").cells["fit_seconds"].best
    assert row(accuracy(report_of(records)), "popularity").ranked


def test_the_ceiling_stands_last_and_does_not_compete(records):
    table = accuracy(report_of(records), section=1)
    ceiling = table.rows[-1]
    assert ceiling.label == "ceiling (generating process)"
    assert ceiling.cells["ndcg@10"].text == "0.2000"
    assert not ceiling.cells["ndcg@10"].best
    assert row(table, "recblr").cells["ndcg@10"].best


def test_mismatching_counts_become_a_warning(records):
    beauty, movies = report_of(records).sections
    assert beauty.warnings == ["22,363 users were prepared, 22,364 were published."]
    assert movies.warnings == []


def test_costs_of_different_hardware_stand_in_different_tables(records):
    cpu, gpu = tables(report_of(records), "cost", section=1)
    assert "gru4rec" not in [each.model for each in cpu.rows]
    assert [each.model for each in gpu.rows] == ["gru4rec"]
    assert cpu.hardware == "Example CPU 3000, 8 cores, 8 threads, 32 GiB"
    assert gpu.hardware == "Example GPU 80GB, 80 GiB"


@pytest.mark.parametrize("other", [{"cores": 4}, {"memory_bytes": 2**34}, {"threads": 1}, {"cpu": "Example CPU 4000"}])
def test_what_was_measured_on_another_machine_stands_in_another_table(make_record, other):
    here, there = make_record(), make_record(seed=1)
    there.environment = {**here.environment, **other}
    assert len(tables(report_of([here, there]), "cost")) == 2


def test_models_that_only_count_have_no_epochs(records):
    cells = row(tables(report_of(records), "cost")[0], "popularity").cells
    assert cells["epoch_seconds"].text == "n/a"
    assert cells["fit_seconds"].text == "0.0123"


def test_costs_have_three_significant_digits_and_one_unit_a_column(make_record):
    made = [make_record("a", cost_scale=1), make_record("b", cost_scale=1.5), make_record("c", cost_scale=30)]
    table = tables(report_of(made), "cost")[0]
    memory = next(column for column in table.columns if column.key == "peak_memory_bytes")
    assert memory.unit == "GiB"
    assert [each.cells[memory.key].text for each in table.rows] == ["0.717", "1.08", "21.5"]
    assert [each.cells["parameters"].text for each in table.rows] == ["1.23", "1.85", "37.0"]


def test_latency_has_a_row_per_mode_and_batch_and_a_footnote_where_skipped(make_record):
    table = tables(report_of([make_record()]), "latency")[0]
    assert [block for block, _ in table.blocks()] == [
        "batch 1, whole sequence",
        "batch 1, incremental step",
        "batch 64, whole sequence",
    ]
    cell = table.rows[-1].cells["16384"]
    assert cell.text == "--"
    assert table.footnotes[cell.notes[0]] == "more than 16 GiB of scores"


def test_whole_and_incremental_latencies_do_not_compete(records):
    table = tables(report_of(records), "latency")[0]
    best = [each.block for each in table.rows if each.cells["64"].best]
    assert best == [block for block, _ in table.blocks()]


def test_figures_that_are_no_numbers_are_left_out(make_record):
    record = make_record()
    record.accuracy["ndcg@10"] = float("nan")
    cell = accuracy(report_of([record])).rows[0].cells["ndcg@10"]
    assert (cell.text, cell.n) == ("--", 0)


def test_reports_do_not_import_torch():
    modules = "tables, terminal, latex, markdown, csv_json"
    code = f"import sys; from seqbench.reporting import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_percentiles_of_latency_are_shown_on_demand(make_record):
    from seqbench.reporting.tables import build_report

    runs = [StoredRun(make_record())]

    def shown(report):
        return [table.statistic for table in report.sections[0].shown if table.kind == "latency"]

    assert shown(build_report(runs)) == ["p50"]
    assert shown(build_report(runs, percentiles=["p95", "p99"])) == ["p95", "p99"]
    with pytest.raises(UsageError, match="Percentile 'p90' is unknown"):
        build_report(runs, percentiles=["p90"])


def test_the_size_of_models_is_shown_on_demand(make_record):
    from seqbench.reporting.tables import build_report

    record = make_record(cost={"parameters": 3_000_000, "parameters_without_items": 1000, "whole_flops": 5_000_000_000})
    (table,) = build_report([StoredRun(record)], tables=["size"]).sections[0].tables
    assert [column.title for column in table.columns] == ["Parameters", "Without items", "FLOPs of a history"]
    assert [cell.text for cell in table.rows[0].cells.values()] == ["3.00", "1.00", "5.00"]
    assert [column.unit for column in table.columns] == ["M", "k", "G"]
