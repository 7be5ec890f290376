"""Costs of models with random weights: what is searched, counted and printed."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqbench.device import kind
from seqbench.measuring import bench as measuring
from seqbench.measuring.bench import Request, interval, users_per_second
from seqbench.ops import linear_scan, matrix_scan, rg_lru, selective_scan
from seqbench.ops.operator import visible
from tests.kit import Bench

CPU = torch.device("cpu")


def request(*models: str, **options: object) -> Request:
    defaults: dict[str, object] = {"items": 30, "lengths": (4, 8), "batches": (1, 2), "seconds": 0.0}
    return Request({name: name for name in models}, CPU, **(defaults | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0.001, 0.01])
def test_the_rate_found_is_what_a_server_of_known_speed_can_do(seconds: float) -> None:
    """One user at a time, in constant time: beyond 1 / seconds the queue grows, far below nobody waits."""
    rate, p99 = users_per_second(lambda size: seconds, 1, 20 * seconds)
    assert 0.5 / seconds < rate < 1.1 / seconds
    assert p99 is not None
    assert seconds <= p99 <= 20 * seconds


def test_batches_serve_more_users_within_the_same_bound() -> None:
    single, _ = users_per_second(lambda size: 0.01, 1, 0.1)
    batched, _ = users_per_second(lambda size: 0.01, 16, 0.1)
    assert batched > 5 * single


def test_a_stricter_bound_serves_fewer_users() -> None:
    rates = [users_per_second(lambda size: 0.004 + 0.001 * size, 32, bound)[0] for bound in (0.008, 0.02, 0.1)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_nobody_is_served_in_time_by_a_model_that_is_too_slow() -> None:
    assert users_per_second(lambda size: 0.2, 4, 0.1) == (0.0, None)


def test_an_interval_holds_the_median_and_narrows_with_agreement() -> None:
    generator = np.random.default_rng(1)
    for spread in (0.01, 0.2):
        middle, low, high = interval(list(2 + spread * generator.standard_normal(40)))
        assert low <= middle <= high
        assert high - low < 2 * spread
        assert abs(middle - 2) < spread
    assert interval([3.0]) == (3.0, 3.0, 3.0)


def test_every_point_of_every_mode_is_measured_and_compared() -> None:
    figures = list(measuring.latency(request("sasrec", "gru4rec", baseline="sasrec")))
    found = {(each.model, each.quantity, each.batch, each.length) for each in figures}
    modes = ("whole", "encode", "step", "prefill")
    assert found == {(m, q, b, n) for m in ("sasrec", "gru4rec") for q in modes for b in (1, 2) for n in (4, 8)}
    assert all((each.ratio is None) == (each.model == "sasrec") for each in figures)
    assert all(each.values["p50_ms"] for each in figures)


def test_the_state_of_a_user_is_counted_in_bytes() -> None:
    figures = measuring.latency(request("sasrec", "gru4rec", "lrurec"))
    sizes = {
        (each.model, each.length, each.batch): each.values.get("state_bytes")
        for each in figures
        if each.quantity == "prefill"
    }
    assert {sizes["gru4rec", length, batch] for length in (4, 8) for batch in (1, 2)} == {4 * 128}  # one layer of 128
    assert {sizes["lrurec", length, 1] for length in (4, 8)} == {2 * 128 * 8}  # two layers of 128 complex channels
    assert sizes["sasrec", 8, 1] > sizes["sasrec", 4, 1] > 0  # type: ignore[operator]


def test_operations_of_lrurec_are_counted_as_by_hand(backend: str) -> None:
    (figure,) = measuring.size(request("lrurec", lengths=(8,)))
    D, T, V, layers = 64, 8, 31, 2
    # In and out of the recurrence, (D, 4 D) and (4 D, D), and two layers of (D, 4 D); the second block's last three are
    # computed at the last position alone, and so are the scores. The recurrence has 2 D complex channels.
    product, recurrence = 2 * D * 4 * D, 8 * 2 * D
    assert figure.values["whole_flops"] == product * (T * 4 + T + 3) + layers * T * recurrence + 2 * D * V
    assert figure.values["step_flops"] == layers * (product * 4 + recurrence) + 2 * D * V
    assert figure.values["state_bytes"] == layers * 2 * D * 8
    assert figure.values["parameters"] == figure.values["parameters_without_items"] + V * D + V  # type: ignore[operator]


def test_operations_of_attention_are_counted_as_by_hand() -> None:
    (figure,) = measuring.size(request("sasrec", lengths=(8,)))
    D, T, V = 64, 8, 31
    linear = 2 * D * (3 * D + D + 4 * D + 4 * D)  # queries, keys, values; out; feed forward
    first = T * linear + 2 * 2 * T * T * D
    last = T * 2 * D * 2 * D + (linear - 2 * D * 2 * D) + 2 * 2 * T * D  # keys and values of all, the rest of the last
    assert figure.values["whole_flops"] == first + last + 2 * D * V
    assert figure.values["step_flops"] == 2 * (linear + 2 * 2 * T * D) + 2 * D * V


def test_operations_of_scans_are_counted_by_their_formulas() -> None:
    B, T, D, N = 2, 3, 4, 5
    x, state = torch.ones(B, T, D), torch.ones(B, T, N)
    calls = {
        2: lambda: linear_scan(x, x),
        8: lambda: linear_scan(x.cfloat(), x.cfloat()),
        1 + 1 + 3 + 2 + 1: lambda: rg_lru(x, torch.ones(B, T, 2 * D), torch.ones(D)),
        6 * N + 1: lambda: selective_scan(x, x, -torch.ones(D, N), state, state),
        5 * N: lambda: matrix_scan(state[:, :, None], state[:, :, None], x[:, :, None], x[:, :, :1]),
        6 * N + 1 + 2 + 1: lambda: selective_scan(x, x, -torch.ones(D, N), state, state, torch.ones(D), x),
    }
    for each, call in calls.items():
        with visible(), FlopCounterMode(display=False) as counter:
            call()
        assert counter.get_total_flops() == each * B * T * D


@pytest.mark.parametrize("quantity", ["throughput", "memory", "training"])
def test_other_quantities_have_figures(quantity: str) -> None:
    figures = list(measuring.run(quantity, request("sasrec", lengths=(8,), batches=(2,))))
    assert [each.model for each in figures] == ["sasrec"]
    assert all(each.reason is None and each.values for each in figures)


def test_energy_is_that_of_calls_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = type(kind(CPU))
    monkeypatch.setattr(cpu, "energy", lambda self, device: None)
    (missing,) = measuring.energy(request("gru4rec"))
    assert missing.values == {}
    assert missing.reason is not None
    assert "no energy counter" in missing.reason
    monkeypatch.setattr(cpu, "energy", lambda self, device: lambda: 6.0)
    monkeypatch.setattr(measuring, "ENERGY_PERIODS", 0)
    clock = iter(range(1000))
    monkeypatch.setattr(measuring, "now", lambda device: next(clock) / 2)
    (figure,) = measuring.energy(request("gru4rec", lengths=(8,), batches=(2,), seconds=1.0))
    # The end is fixed at 0 s, and a call of two users begins at 0.5 s and is the only one before 1 s.
    names = ["whole_joules_per_1000", "step_joules_per_1000", "training_joules_per_1000"]
    assert figure.values == dict.fromkeys(names, 6.0 / 2 * 1000)


def test_the_command_prints_tables_and_writes_everything(bench: Bench, tmp_path: Path) -> None:
    done = bench.call(
        *("bench", "latency", "--models", "sasrec,gru4rec", "--items", 50, "--lengths", 8, "--batches", 1),
        *("--seconds", 0, "--baseline", "sasrec", "--json", tmp_path / "bench.json"),
    )
    assert done.code == 0, done.err
    for words in ("whole", "prefill", "× sasrec", "50 items, random weights"):
        assert words in done.out
    stored = json.loads((tmp_path / "bench.json").read_text())
    assert {figure["model"] for figure in stored["figures"]} == {"sasrec", "gru4rec"}
    assert stored["environment"]["threads"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("speed",), "Quantity 'speed' is unknown"),
        (("latency", "--models", "markov"), "no weights to draw at random"),
        (("latency", "--models", "lrurec", "--baseline", "sasrec"), "is not among the models: lrurec"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(bench: Bench, words: tuple[str, ...], said: str) -> None:
    done = bench.call("bench", *words)
    assert done.code == 2
    assert said in done.words


def test_counting_in_several_threads_leaves_torch_as_it_was() -> None:
    def settings() -> tuple[bool, bool]:
        return torch._C._get_mkldnn_enabled(), torch.backends.cuda.flash_sdp_enabled()

    before = settings()
    counting = [
        threading.Thread(target=lambda: list(measuring.size(request("sasrec", lengths=(8,))))) for _ in range(4)
    ]
    for each in counting:
        each.start()
    for each in counting:
        each.join()
    assert settings() == before
