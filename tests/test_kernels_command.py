"""`seqbench kernels`: checked before it is timed, peers in their own layouts, tables, JSON, plot and bad input."""

import dataclasses
import json
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.backends import BACKENDS, Backend
from seqbench.ops.functions.selective_scan import Arguments
from seqbench.ops.reference import linear_scan as reference_scan
from seqbench.ops.reference import selective_scan as reference_selective
from seqbench.results.records import Conditions
from seqbench.speed import benchmark, timing, verify, workloads
from seqbench.speed.benchmark import Competitor, _Problem
from seqbench.speed.choices import WORKLOADS, Dtype
from seqbench.speed.peers import PEERS
from seqbench.speed.request import parse
from seqbench.speed.timing import MINIMUM_ROUNDS, Call, compete
from seqbench.speed.workloads import OUTPUT, PASSES, Inputs, leaves
from tests.kit import Bench, Outcome

TINY = {"BxTxD": "3x32x4", "BxTxDxN": "2x9x4x3", "BxTxHxKxV": "2x9x2x3x4", "BxHxTxE": "3x2x9x4", "NxDxV": "5x4x11"}


class Kernels:
    """`seqbench kernels` on tiny shapes and for no longer than it must."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bench = Bench(folder, folder, capsys)
        self.file = folder / "kernels.json"

    def call(self, *words: object) -> Outcome:
        return self.bench.call("kernels", "--device", "cpu", "--seconds", 0, *words)

    def measure(self, operator: str, *words: object) -> dict[str, dict[str, Any]]:
        """Entries by pass and name."""
        shape = TINY[WORKLOADS[operator].axes]
        outcome = self.call("--operators", operator, "--shapes", shape, "--json", self.file, *words)
        assert outcome.code == 0, outcome.err
        self.said = outcome
        self.document = json.loads(self.file.read_text())
        cases = {case["pass"]: case for case in self.document["cases"]}
        return {passes: {entry["name"]: entry for entry in case["entries"]} for passes, case in cases.items()}


@pytest.fixture
def kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Kernels:
    quiet = Conditions(seconds=0.3, busy_cores=0.0, disturbances=[])
    monkeypatch.setattr(benchmark, "listen", lambda device: quiet)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0005)
    return Kernels(tmp_path, capsys)


# Every backend of every operator


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("operator", WORKLOADS)
def test_every_backend_is_checked_and_timed(operator: str, name: str, kernels: Kernels) -> None:
    if reason := BACKENDS[name].unavailable(WORKLOADS[operator].operator, "cpu"):
        pytest.skip(reason)
    for passes, entries in kernels.measure(operator, "--backends", name).items():
        entry = entries[name]
        assert (entry["status"], entry["reason"], entry["kind"]) == ("measured", None, "backend"), passes
        assert entry["deviation"]["error"] <= entry["deviation"]["tolerance"]
        assert entry["rounds"] >= MINIMUM_ROUNDS
        for figures in (entry["seconds"], entry["ratio"]):
            assert 0 < figures["best"] <= figures["p25"] <= figures["median"] <= figures["p75"] <= figures["worst"]
        assert WORKLOADS[operator].baseline in entries


@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_every_precision_has_its_own_tolerance(dtype: str, kernels: Kernels) -> None:
    for entries in kernels.measure("linear_scan", "--backends", "torch", "--dtype", dtype).values():
        assert entries["torch"]["status"] == "measured"
        assert entries["torch"]["deviation"]["tolerance"] == verify.TOLERANCE[getattr(torch, dtype)]


def test_the_json_has_everything(kernels: Kernels) -> None:
    kernels.measure("linear_scan", "--backends", "torch,mamba-ssm")
    document = kernels.document
    assert document["schema_version"] == 1
    assert document["environment"]["threads"] == torch.get_num_threads()
    assert {"cpu", "torch", "git_commit", "os"} <= document["environment"].keys()
    assert (document["device"], document["dtype"], document["seconds"]) == ("cpu", "float32", 0)
    assert document["busy_cores"] >= 0
    assert document["peers"] == {"mamba-ssm": None}
    forward, both = document["cases"]
    assert (forward["pass"], both["pass"]) == PASSES
    for case, moved in ((forward, 3), (both, 8)):  # tensors of B·T·D floats, as kernels/README.md counts them
        assert case["bytes"] == moved * 3 * 32 * 4 * 4
        assert (case["operator"], case["axes"], case["shape"]) == ("linear_scan", "BxTxD", [3, 32, 4])
        assert case["baseline"] == "copy"
        copy, fresh, timed = case["entries"]
        assert (copy["name"], copy["kind"], fresh["name"]) == ("copy", "baseline", "fresh copy")
        assert copy["ratio"]["median"] == 1
        assert timed["speedup"]["median"] == 1


def test_the_table_says_what_on_what_and_against_what(kernels: Kernels) -> None:
    kernels.measure("linear_scan", "--backends", "torch")
    for words in ("linear_scan, forward+backward", "3x32x4", "fresh copy", "× copy", "GB/s", "1 thread; torch"):
        assert words in kernels.said.out
    kernels.measure("linear_cross_entropy", "--backends", "torch", "-q")
    assert "× plain" in kernels.said.out
    assert "GFLOP/s" in kernels.said.out
    assert "linear_cross_entropy" not in kernels.said.err


def test_without_shapes_the_default_ones_are_used() -> None:
    assert parse("cpu", "float32", None, None, None, 1).shapes == {
        name: workload.shapes["cpu"] for name, workload in WORKLOADS.items()
    }
    assert all(
        workload.fits(shape) for _, workload in WORKLOADS.items() for s in workload.shapes.values() for shape in s
    )


def test_shapes_replace_those_of_the_operators_that_they_fit() -> None:
    chosen = parse("cpu", "float32", None, "1x2x3,4x5x6x7,8x9x10", None, 1).shapes
    assert chosen["linear_scan"] == chosen["linear_scan_complex"] == chosen["rg_lru"] == ((1, 2, 3), (8, 9, 10))
    assert chosen["selective_scan"] == ((4, 5, 6, 7),)
    assert chosen["linear_cross_entropy"] == WORKLOADS["linear_cross_entropy"].shapes["cpu"]
    assert parse("cpu", "float32", "linear_cross_entropy", "1x2x3", None, 1).shapes == {
        "linear_cross_entropy": ((1, 2, 3),)
    }


def test_the_reference_is_timed_only_if_it_is_named() -> None:
    assert "reference" not in parse("cpu", "float32", None, None, None, 1).competitors
    assert parse("cpu", "float32", None, None, "reference", 1).competitors == ("reference",)


# Wrong results


@dataclasses.dataclass(frozen=True)
class Fake(Backend):
    """A backend whose states, or whose gradients, are off by a factor."""

    states: float = 1.0
    gradients: float = 1.0

    def load(self, operator: str) -> Any:
        def forward(*arguments: Any) -> Tensor:
            return self.states * reference_scan.forward(*arguments)

        def backward(*arguments: Any) -> tuple[Tensor, ...]:
            right = BACKENDS["torch"].load(operator).backward(*arguments)
            return tuple(self.gradients * gradient for gradient in right)

        return SimpleNamespace(forward=forward, backward=backward)

    def unavailable(self, operator: str, device: str) -> str | None:
        return None


@pytest.mark.parametrize("factor", [1.001, math.nan, math.inf])
def test_a_wrong_backend_is_shown_as_wrong_and_not_timed(factor: float, kernels: Kernels) -> None:
    with BACKENDS.added("fake", Fake("fake", "", "", states=factor)):
        measured = kernels.measure("linear_scan", "--backends", "torch,fake")
    for entries in measured.values():
        entry = entries["fake"]
        assert (entry["status"], entry["rounds"], entry["seconds"], entry["ratio"]) == ("wrong", 0, None, None)
        assert float(entry["deviation"]["error"]) == pytest.approx(factor - 1, rel=0.01, nan_ok=True)
        assert entries["torch"]["status"] == "measured"
    assert "wrong [1]" in kernels.said.out
    assert "differs by" in kernels.said.out


def test_wrong_gradients_cost_only_the_time_that_needs_them(kernels: Kernels) -> None:
    with BACKENDS.added("fake", Fake("fake", "", "", gradients=1.01)):
        forward, both = kernels.measure("linear_scan", "--backends", "fake").values()
    assert forward["fake"]["status"] == "measured"
    assert both["fake"]["status"] == "wrong"
    assert both["fake"]["deviation"]["tensor"] in ("gates", "inputs")


def test_a_backend_that_fails_does_not_stop_the_others(kernels: Kernels) -> None:
    class Failing(Fake):
        def load(self, operator: str) -> Any:
            raise RuntimeError("no such luck\nand more")

    with BACKENDS.added("fake", Failing("fake", "", "")):
        forward, _ = kernels.measure("linear_scan", "--backends", "fake,torch").values()
    assert (forward["fake"]["status"], forward["fake"]["reason"]) == ("failed", "RuntimeError: no such luck")
    assert forward["torch"]["status"] == "measured"


def test_a_baseline_that_fails_costs_only_the_ratios(kernels: Kernels) -> None:
    def fail(inputs: Inputs) -> Tensor:
        raise MemoryError

    failing = dataclasses.replace(WORKLOADS["linear_cross_entropy"], name="failing", plain=fail)
    with WORKLOADS.added("failing", failing):
        measured = kernels.measure("failing", "--backends", "torch")
    for entries in measured.values():
        assert (entries["plain"]["status"], entries["plain"]["reason"]) == ("failed", "out of memory")
        assert entries["torch"]["status"] == "measured"
        assert entries["torch"]["ratio"] is None


def test_no_memory_for_what_is_timed_does_not_stop_the_others(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _Problem.call

    def call(problem: _Problem, competitor: Competitor, passes: str) -> Call:
        if competitor.name == "torch":
            raise MemoryError
        return given(problem, competitor, passes)

    monkeypatch.setattr(_Problem, "call", call)
    for entries in kernels.measure("linear_scan", "--backends", "torch,reference").values():
        assert (entries["torch"]["status"], entries["torch"]["reason"]) == ("failed", "out of memory")
        assert entries["reference"]["status"] == entries["copy"]["status"] == "measured"


@pytest.mark.parametrize("operator", WORKLOADS)
def test_the_reference_does_not_depend_on_how_many_rows_it_takes_at_once(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = WORKLOADS[operator]
    shape = tuple(int(size) for size in TINY[workload.axes].split("x"))
    problem = _Problem(workload, shape, parse("cpu", "float32", operator, None, None, 1))
    at_once = verify.reference(workload, shape, problem.inputs, problem.cotangent)
    monkeypatch.setattr(workloads, "REFERENCE_ELEMENTS", 1)
    row_by_row = verify.reference(workload, shape, problem.inputs, problem.cotangent)
    assert at_once.keys() == {OUTPUT, *(leaves(problem.inputs) if workload.differentiable else ())}
    for name, value in at_once.items():
        torch.testing.assert_close(row_by_row[name], value, rtol=1e-12, atol=1e-12)


# Peers


def channels_first_scan(gates: Tensor, tokens: Tensor) -> Tensor:
    assert gates.is_contiguous()
    assert tokens.is_contiguous()
    B, C, _ = tokens.shape
    gates, tokens = gates.transpose(1, 2), tokens.transpose(1, 2)
    return reference_scan.forward(gates, tokens, tokens.new_zeros(B, C), None).transpose(1, 2)


def hgrn(x: Tensor, g: Tensor, initial_state: Tensor | None = None) -> tuple[Tensor, None]:
    return reference_scan.forward(g.exp(), x, x.new_zeros(x.shape[0], x.shape[2]), None), None


def mamba(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):  # type: ignore[no-untyped-def]
    first = [tensor.transpose(1, 2) for tensor in (u, delta, B, C, z)]
    state = u.new_zeros(u.shape[0], *A.shape)
    scan = Arguments(first[0], first[1], A, first[2], first[3], D, first[4], state, delta_softplus)
    return reference_selective.forward(scan)[0].transpose(1, 2)


# With the signatures and layouts that the packages document, computed by the reference.
STAND_INS = {
    "accelerated_scan.warp": {"scan": channels_first_scan},
    "accelerated_scan.scalar": {"scan": channels_first_scan},
    "fla.ops.hgrn": {"fused_recurrent_hgrn": hgrn, "chunk_hgrn": hgrn},
    "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": mamba, "selective_scan_ref": mamba},
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All peers as stand-ins that run on the CPU."""
    for path, functions in STAND_INS.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            module = ModuleType(".".join(parts[:end]))
            module.__spec__ = ModuleSpec(module.__name__, None)
            monkeypatch.setitem(sys.modules, module.__name__, sys.modules.get(module.__name__, module))
        vars(sys.modules[path]).update(functions)
    for name, peer in PEERS.items():
        monkeypatch.setitem(PEERS, name, dataclasses.replace(peer, devices=("cpu", "cuda")))


@pytest.mark.parametrize("name", [name for name in PEERS if not name.startswith("torch")])
@pytest.mark.usefixtures("installed")
def test_peers_get_their_own_layout_and_are_compared_in_ours(name: str, kernels: Kernels) -> None:
    (operator,) = PEERS[name].workloads
    for entries in kernels.measure(operator, "--backends", name).values():
        entry = entries[name]
        assert (entry["status"], entry["reason"], entry["kind"]) == ("measured", None, "peer")


@pytest.mark.usefixtures("installed")
def test_a_peer_is_skipped_at_lengths_that_it_refuses(kernels: Kernels) -> None:
    words = ("--operators", "linear_scan", "--shapes", "2x33x4,2x64x4", "--backends", "accelerated-scan-warp")
    outcome = kernels.call(*words)
    assert outcome.code == 0
    assert outcome.out.count("skipped [1]") == 2
    assert "T = 33 is not a power of two from 32 to 65536" in outcome.out


def test_peers_that_are_missing_are_named_once(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, peer in PEERS.items():
        if not name.startswith("torch"):
            monkeypatch.setitem(PEERS, name, dataclasses.replace(peer, package="surely_not_installed"))
    entries = kernels.measure("linear_scan")["forward"]
    assert not [entry for entry in entries.values() if entry["kind"] == "peer" and "torch" not in entry["name"]]
    said = " ".join(kernels.said.out.split())
    listed = "accelerated-scan-warp, accelerated-scan-triton, fla-hgrn-recurrent, fla-hgrn-chunk."
    assert said.count(f"Not installed: {listed}") == 1
    assert said.count("accelerated-scan-warp") == 1


def test_a_peer_that_cannot_be_imported_gives_the_reason(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(device: torch.device) -> Any:
        print("compiling")
        raise RuntimeError("nvcc is missing")

    peer = dataclasses.replace(PEERS["fla-hgrn-chunk"], package="torch", devices=("cpu",), load=load)
    monkeypatch.setitem(PEERS, "fla-hgrn-chunk", peer)
    kernels.measure("linear_scan", "--backends", "torch,fla-hgrn-chunk")
    assert "Cannot be imported: RuntimeError: nvcc is missing: fla-hgrn-chunk." in kernels.said.out
    assert "compiling" not in kernels.said.out


# Timing


def test_competitors_take_turns_until_each_has_had_its_time() -> None:
    seconds = {"copy": 0.25, "slow": 2.0, "fast": 0.5}
    turns: list[str] = []

    def sample(call: Any, calls: int) -> float:
        name = call()
        turns.append(name)
        return seconds[name]

    calls = {name: lambda name=name: name for name in seconds}
    samples = compete(calls, "copy", sample, 10.0)
    assert len(samples["slow"]) == MINIMUM_ROUNDS
    assert len(samples["fast"]) == 10.0 / seconds["fast"]
    assert len(samples["copy"]) == 10.0 / seconds["copy"]
    assert all(set(values) == {seconds[name]} for name, values in samples.items())
    first = turns[len(calls) :][: 3 * MINIMUM_ROUNDS]  # after one trial of each
    assert all(set(first[i : i + 3]) == set(calls) for i in range(0, len(first), 3))
    assert len({tuple(first[i : i + 3]) for i in range(0, len(first), 3)}) > 1


# The plot


def test_the_plot_names_shapes_and_competitors(kernels: Kernels, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kernels.measure("linear_scan", "--backends", "torch,reference", "--plot", tmp_path / "speed.svg")
    drawn = (tmp_path / "speed.svg").read_text()
    for words in ("linear_scan", "3×32×4", "torch", "reference", "forward + backward", "copy of as many bytes"):
        assert words in drawn
    kernels.measure("linear_cross_entropy", "--backends", "torch", "--plot", tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_its_installation_is_named_before_anything_is_timed(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = kernels.call("--plot", tmp_path / "speed.png")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--plot needs matplotlib, which is not installed. Run `pip install 'seqbench[plot]'`." in (outcome.words)


# Wrong input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--operators", "liner_scan"), "Operator 'liner_scan' is unknown. Did you mean linear_scan?"),
        (("--operators", ","), "--operators names no operator"),
        (("--backends", "torhc"), "Backend 'torhc' is unknown. Did you mean torch?"),
        (("--backends", ""), "--backends names no backend"),
        (("--dtype", "float31"), "Invalid value for '--dtype'"),
        (("--shapes", "128x200xD"), "--shapes takes sizes such as 128x200x128, not '128x200xD'."),
        (("--shapes", "128x0x128"), "not '128x0x128'. For example --shapes 128x200x128,1x16384x128;"),
        (("--shapes", "128x200"), "--shapes: 128x200 does not fit linear_scan (BxTxD), "),
        (("--operators", "selective_scan", "--shapes", "2x3x4"), "does not fit selective_scan (BxTxDxN)."),
        (("--shapes", ","), "--shapes names no shape"),
        (("--plot", "speed.txt"), "--plot takes a file that ends in .png, .svg, .pdf, not 'speed.txt'."),
        (("--seconds", "-1"), "Invalid value for '--seconds'"),
        (("--device", "tpu"), "Device 'tpu' is not available"),
        (
            ("--operators", "linear_scan", "--backends", "mamba-ssm"),
            "Nothing can be timed on cpu: no backend has these operators.",
        ),
        (
            ("--operators", "linear_scan_complex", "--backends", "torch", "--dtype", "float16"),
            "Nothing can be timed on cpu: torch: there is no complex float16.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_line_that_is_wrong_ends_with_2(words: tuple[str, ...], said: str, kernels: Kernels) -> None:
    outcome = kernels.call(*words)
    assert outcome.code == 2
    assert said in " ".join(outcome.err.replace("│", " ").split())
    assert outcome.out == ""


def test_peers_and_plain_forms_agree_with_the_documentation_of_torch() -> None:
    shape = (5, 4, 11)
    workload = WORKLOADS["linear_cross_entropy"]
    inputs = _Problem(workload, shape, parse("cpu", "float64", workload.name, None, None, 1)).inputs
    assert workload.plain is not None
    logits = inputs["states"] @ inputs["items"].t() + inputs["bias"]
    torch.testing.assert_close(workload.plain(inputs), F.cross_entropy(logits, inputs["targets"]))
