"""What `seqbench kernels` prints: a table for each operator, and what is to be said about it."""

import statistics
from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from seqbench.show import footnotes, numbers
from seqbench.speed.benchmark import COPIES, Benchmark, Case, Entry
from seqbench.speed.summary import machine, unsteady
from seqbench.speed.workloads import PASSES

MISSING = "–"


def tables(benchmark: Benchmark, name: str) -> Iterator[RenderableType]:
    """Yield the tables of an operator, each with its notes."""
    for passes in PASSES:
        cases = [case for case in benchmark.cases if (case.workload.name, case.passes) == (name, passes)]
        if cases:
            notes: list[str] = []
            yield Text(f"{name}, {passes}", style="bold")
            yield _table(cases, notes)
            yield from (Text(f"[{index}] {note}") for index, note in enumerate(notes, 1))
            yield Text()


def legend(benchmark: Benchmark) -> Iterator[RenderableType]:
    """Yield what it was measured on, what the columns mean, and who is absent."""
    yield Text(_caption(benchmark))
    yield from (Text(line) for line in _absent(benchmark))


def _table(cases: list[Case], notes: list[str]) -> Table:
    workload = cases[0].workload
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(workload.axes, no_wrap=True)
    table.add_column("Backend", no_wrap=True)
    rate = "GB/s" if workload.plain is None else "GFLOP/s"
    for title in ("ms", f"× {workload.baseline}", rate, "speed-up"):
        table.add_column(title, justify="right", no_wrap=True, min_width=8)
    for case in cases:
        label = "x".join(map(str, case.shape))
        for entry in case.entries:
            table.add_row(label, entry.name, *_cells(case, entry, notes))
            label = ""
    return table


def _cells(case: Case, entry: Entry, notes: list[str]) -> list[str]:
    """Return time, ratio, rate and speed-up; without a time one word, and the number of a note."""
    if entry.reason is not None:
        return [f"{entry.status} [{footnotes.note(notes, entry.reason) + 1}]", MISSING, MISSING, MISSING]
    seconds = statistics.median(entry.seconds)
    amount = case.bytes if case.workload.plain is None else case.flops
    ratio = _median(entry.ratios) + ("~" if unsteady(entry) else "")
    speedup = MISSING if entry.name in COPIES else _median(entry.speedups)
    return [numbers.significant(seconds * 1e3), ratio, numbers.significant(amount / seconds / 1e9), speedup]


def _median(values: list[float]) -> str:
    return numbers.significant(statistics.median(values)) if values else MISSING


def _caption(benchmark: Benchmark) -> str:
    lines = [f"{machine(benchmark.request)}. Medians over rounds in which all take turns."]
    workloads = {case.workload.name: case.workload for case in benchmark.cases}.values()
    if any(workload.plain is None for workload in workloads):
        lines.append(
            "× copy: time relative to torch copying as many bytes as the operator must read and write, into memory "
            "that exists. fresh copy: into new memory, in one piece."
        )
    if any(workload.plain is not None for workload in workloads):
        lines.append(
            "× plain: time relative to torch's own operations over all logits at once; for rank_counts and top_k, to "
            "the product of states and items alone."
        )
    lines.append("speed-up: how many times as fast as the torch backend.")
    if any(unsteady(entry) for case in benchmark.cases for entry in case.entries):
        lines.append("~ unsteady: half of the ratios spread widely; repeat it when the machine is quiet.")
    return "\n".join(lines)


def _absent(benchmark: Benchmark) -> Iterator[str]:
    """Return one line for each reason; the operators are named where the competitor took part in others."""
    operators: dict[tuple[str, str], list[str]] = {}
    for absent in benchmark.absent:
        operators.setdefault((absent.name, absent.reason), []).append(absent.workload)
    lines: dict[str, list[str]] = {}
    for (name, reason), workloads in operators.items():
        lines.setdefault(reason, []).append(f"{name} ({', '.join(workloads)})" if benchmark.timed(name) else name)
    return (f"{reason[0].upper()}{reason[1:]}: {', '.join(names)}." for reason, names in lines.items())
