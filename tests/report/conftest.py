"""Records made by hand: nothing here is measured."""

from collections.abc import Callable
from typing import Any

import pytest

from seqbench.protocol import Protocol
from seqbench.results import Definition, Record

CPU = {
    "machine": "x86_64, 8 cores, 32 GiB",
    "cpu": "Example CPU 3000",
    "cores": 8,
    "memory_bytes": 32 * 2**30,
    "threads": 8,
    "torch": "2.9.0",
    "seqbench": "0.1.0",
    "python": "3.11.9",
    "git_commit": "0123456789abcdef",
}
GPU = {**CPU, "device_name": "Example GPU 80GB", "device_memory_bytes": 80 * 2**30, "cuda": "13.0", "driver": "580.1"}
FACTS = {
    "ml-100k": {"users": 943, "items": 1349, "interactions": 99287, "evaluated_users": 943},
    "amazon-beauty": {"users": 22363, "items": 12101, "interactions": 198502, "evaluated_users": 22363},
}

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record() -> MakeRecord:
    """A function that makes one record; every argument has a default."""
    return _make_record


@pytest.fixture
def records() -> list[Record]:
    """Two data sets, six models, three seeds; failures, a ceiling, odd names, a GPU beside a CPU."""
    made = []
    for dataset, base in (("ml-100k", 0.08), ("amazon-beauty", 0.05)):
        for seed in (0, 1, 2):
            made += [
                _make_record("lrurec", seed, dataset, base + 0.001 * seed, {"dropout": 0.2}),
                _make_record("recblr", seed, dataset, base + 0.0021 + 0.0007 * seed, cost_scale=2.3),
                _make_record("linrec", seed, dataset, base - 0.01, cost_scale=0.41),
            ]
        made += [
            _make_record("sasrec", 0, dataset, base),
            _failed("sasrec", 1, dataset, "non-finite", "The loss became nan in epoch 3."),
            _failed("sigma", 0, dataset, "out-of-memory", "CUDA out of memory. Tried to allocate 20 GiB."),
            _counting("popularity", dataset, base / 3),
        ]
    made.append(_make_record("lrurec", 0, "ml-100k", 0.0777, {"dropout": 0.5}))
    made.append(_make_record(r"a_b&c%$#{}~^\|<u>`*", 0, "ml-100k", 0.0611, epochs=20, best_epoch=20))
    made.append(_make_record("gru4rec", 0, "ml-100k", 0.07, device="cuda", environment=GPU, cost_scale=0.01))
    for record in made:
        if record.definition.dataset == "ml-100k":
            record.dataset["ceiling"] = {"hr@10": 0.3123, "ndcg@10": 0.2}
        else:
            record.dataset["count_mismatch"] = "22,363 users were prepared, 22,364 were published."
    return made


def _make_record(
    model: str = "lrurec",
    seed: int = 0,
    dataset: str = "ml-100k",
    ndcg: float = 0.1,
    config: dict[str, Any] | None = None,
    *,
    protocol: Protocol | None = None,
    fingerprint: str = "f1e2d3c4b5a6",
    device: str = "cpu",
    environment: dict[str, Any] | None = None,
    epochs: int = 20,
    best_epoch: int = 12,
    cost_scale: float = 1.0,
    cost: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
) -> Record:
    definition = Definition(
        dataset=dataset,
        fingerprint=fingerprint,
        protocol=protocol or Protocol(),
        model=model,
        config=config or {"width": 64},
        training={"lr": 0.001, "batch_size": 128},
        seed=seed,
        device=device,
        backend=None,
    )
    return Record(
        definition=definition,
        status="finished",
        started=f"2025-11-0{seed + 1}T10:00:00+00:00",
        seconds=120.4,
        environment=environment or CPU,
        dataset={**FACTS.get(dataset, {"users": 10}), "filters": "5-core"},
        accuracy={
            f"{name}@{k}": ndcg * factor * k / 10
            for name, factor in (("hr", 1.9), ("ndcg", 1.0), ("mrr", 0.8))
            for k in (5, 10, 20)
        },
        training={
            "epochs": epochs,
            "best_epoch": best_epoch,
            "seconds_to_best": 95.2 * cost_scale,
            "stopped_early": best_epoch < epochs,
            "history": [_epoch(number + 1, 5.5 * cost_scale) for number in range(epochs)],
        },
        cost=cost or _cost(cost_scale, seed),
        changes=changes,
    )


def _epoch(number: int, seconds: float) -> dict[str, Any]:
    return {
        "epoch": number,
        "loss": 5.0 / number,
        "validation": 0.1,
        "train_seconds": seconds,
        "evaluate_seconds": 2.5,
        "timed_interactions": 1000,
        "timed_sequences": 100,
        "timed_seconds": 1.0,
    }


def _cost(scale: float, seed: int) -> dict[str, Any]:
    lengths = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
    latency = [
        _latency(mode, batch, length, ms)
        for mode, batch in (("whole", 1), ("step", 1), ("whole", 64))
        for length in (lengths if mode == "whole" else [None])  # of a state that does not grow
        if not (mode == "whole" and batch == 64 and length > 4096)
        for ms in [scale * (0.21 if mode == "step" else 0.004 * length * batch**0.8)]
    ]
    skipped = [
        {"mode": "whole", "batch": 64, "length": length, "reason": "more than 16 GiB of scores"}
        for length in lengths
        if length > 4096
    ]
    return {
        "parameters": round(1_234_567 * scale),
        "train_interactions_per_second": (152_345.0 + 2000 * seed) / scale,
        "train_sequences_per_second": 3000.0 / scale,
        "epoch_seconds": (4.37 + 0.06 * seed) * scale,
        "fit_seconds": (110.0 + seed) * scale,
        "peak_memory_bytes": round((734 + seed) * 2**20 * scale),
        "latency": latency,
        "latency_skipped": skipped,
    }


def _latency(mode: str, batch: int, length: int | None, ms: float) -> dict[str, Any]:
    point = {"mode": mode, "batch": batch, "length": length, "repeats": 50}
    return {**point, "p50_ms": ms, "p95_ms": 1.2 * ms, "p99_ms": 1.5 * ms}


def _failed(model: str, seed: int, dataset: str, kind: str, message: str) -> Record:
    record = _make_record(model, seed, dataset)
    record.status, record.failure = "failed", {"kind": kind, "message": message}
    record.accuracy, record.training, record.cost = {}, None, {}
    return record


def _counting(model: str, dataset: str, ndcg: float) -> Record:
    cost = {"parameters": 0, "epoch_seconds": None, "fit_seconds": 0.0123, "peak_memory_bytes": 2**20}
    record = _make_record(model, 0, dataset, ndcg, cost=cost)
    record.definition = Definition(**{**vars(record.definition), "training": None})
    record.training = None
    return record
