"""Costs of models with random weights, side by side: no data set, no training, any catalogue size.

Models take turns, in rounds of random order (seqbench.speed.timing), so that a spell of noise meets all of them; what
is compared is the ratio to a baseline within a round. To add a quantity, write a function from a request to figures
and enter it in KINDS.

Shapes: B batch, T time, D width, V items plus padding.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from seqbench import timing
from seqbench.device import Call, kind, now
from seqbench.errors import out_of_memory
from seqbench.losses import LOSSES
from seqbench.measuring.latency import CALLS, POSITIONS, call, modes_of, state_bytes, summarise
from seqbench.measuring.process import fix_allocator, load_optimizer
from seqbench.measuring.quiet import Watch
from seqbench.measuring.size import size as count_size
from seqbench.models import load_model
from seqbench.models.base import Model, SequenceModel, TrainingConfig
from seqbench.models.times import synthetic_times
from seqbench.precision import PRECISIONS, full
from seqbench.registry import Registry
from seqbench.results.records import FULL
from seqbench.speed.timing import compete
from seqbench.training.objectives import OBJECTIVES, Batch
from seqbench.training.optimizer import make_optimizers

RESAMPLES = 1000  # of the bootstrap behind an interval
TRIALS = 7  # halvings of the range of rates
ENERGY_PERIODS = 20  # of the counter that are measured at least, so that its steps are 5 % of what is measured
REQUESTS = 400  # of each trial: four of them decide the 99th percentile


@dataclass(frozen=True)
class Request:
    """What to measure, on which device, for how long."""

    models: dict[str, str]  # name → reference; of models that are trained by gradient
    device: torch.device
    items: int = 10_000
    lengths: tuple[int, ...] = (64, 256, 1024)
    batches: tuple[int, ...] = (1, 32)
    baseline: str | None = None  # one of the models
    seconds: float = 0.3  # for each model and point
    bound_ms: float = 50.0  # that 99 % of the requests are answered within
    precision: str = FULL


@dataclass
class Figure:
    """What was measured of one model at one point."""

    model: str
    quantity: str
    batch: int
    length: int
    values: dict[str, float | None] = field(default_factory=dict)  # named with their units
    ratio: tuple[float, float, float] | None = None  # to the baseline: median over rounds, and its 95 % interval
    disturbances: list[str] = field(default_factory=list)
    unsteady: bool = False
    reason: str | None = None  # why there are no values


def latency(request: Request) -> Iterator[Figure]:
    """Time a call in every mode: `whole`, `encode`, `step` and `prefill`; see seqbench.measuring.latency."""
    for batch, length in _points(request):
        models, missing = _build(request, batch, length)
        yield from (Figure(name, "whole", batch, length, reason=reason) for name, reason in missing.items())
        for mode in CALLS:
            calls: dict[str, Call] = {}
            sizes: dict[str, int] = {}
            for name, model in models.items():
                if mode in modes_of(model):
                    items = _histories(request, batch, length)
                    calls[name] = call(mode, model, items)
                    if mode in ("step", "prefill"):
                        sizes[name] = state_bytes(model, items)
            yield from _raced(request, calls, mode, batch, length, sizes)


def training(request: Request) -> Iterator[Figure]:
    """Time a step of training: forward, loss, backward and update, at all positions or as the model's paper says."""
    for batch, length in _points(request):
        models, missing = _build(request, batch, length)
        yield from (Figure(name, "training", batch, length, reason=reason) for name, reason in missing.items())
        calls: dict[str, Call] = {
            name: _training_step(model, _histories(request, batch, length + 1)) for name, model in models.items()
        }
        yield from _raced(request, calls, "training", batch, length, {})


def memory(request: Request) -> Iterator[Figure]:
    """Measure the peak of memory above the model's own, of encoding and of a step of training."""
    timer = kind(request.device)
    for batch, length in _points(request):
        models, missing = _build(request, batch, length)
        yield from (Figure(name, "memory", batch, length, reason=reason) for name, reason in missing.items())
        for name, model in models.items():
            values: dict[str, float | None] = {}
            watch = Watch(request.device)
            for quantity, prepared in (
                ("encode", call("whole", model, _histories(request, batch, length))),
                ("training", _training_step(model, _histories(request, batch, length + 1))),
            ):
                timer.release(request.device)
                peak = timer.peak_memory(request.device)
                before = peak()
                prepared()
                timer.synchronize(request.device)
                values[f"{quantity}_bytes"] = peak() - before
            held = timer.process_memory(request.device)
            values |= {"reserved_bytes": held.reserved, "process_bytes": held.process}
            if "step" in modes_of(model):
                values["state_bytes"] = state_bytes(model, _histories(request, 1, length))
            yield Figure(name, "memory", batch, length, values, disturbances=watch.conditions()["disturbances"])


def throughput(request: Request) -> Iterator[Figure]:
    """Find how many users per second are answered so that 99 % of them wait no longer than the bound.

    Requests arrive at random (seeded); whoever waits when the model is free is encoded in one batch, of the largest
    size at most. Encoding is really done and timed; time in which nobody waits is skipped.
    """
    largest = max(request.batches)
    for length in request.lengths:
        models, missing = _build(request, largest, length)
        yield from (Figure(name, "throughput", largest, length, reason=reason) for name, reason in missing.items())
        for name, model in models.items():
            watch = Watch(request.device)
            histories = _histories(request, largest, length)
            waits: dict[int, Call] = {size: call("whole", model, histories[:size]) for size in range(1, largest + 1)}

            def serve(size: int, waits: dict[int, Call] = waits) -> float:
                return timing.sample(waits[size], request.device)[0]

            best, p99 = users_per_second(serve, largest, request.bound_ms / 1000)
            values = {"users_per_second": best, "p99_ms": None if p99 is None else p99 * 1000}
            values["bound_ms"] = request.bound_ms
            reason = None if best else f"even one user at a time waits more than {request.bound_ms:g} ms"
            found = watch.conditions()["disturbances"]
            yield Figure(name, "throughput", largest, length, values, disturbances=found, reason=reason)


def energy(request: Request) -> Iterator[Figure]:
    """Measure the energy of 1,000 recommendations, by encoding and by steps, and of training on 1,000 histories.

    It is that of the whole device, as its counter has it: what else runs there counts, and so does idling.
    """
    timer = kind(request.device)
    if timer.energy(request.device) is None:
        reason = "no energy counter can be read (NVML on GPUs; RAPL on CPUs, by root on most systems)"
        yield from (Figure(name, "energy", 0, 0, reason=reason) for name in request.models)
        return
    seconds = max(request.seconds, ENERGY_PERIODS * timer.energy_period)
    for batch, length in _points(request):
        models, missing = _build(request, batch, length)
        yield from (Figure(name, "energy", batch, length, reason=reason) for name, reason in missing.items())
        for name, model in models.items():
            watch, values = Watch(request.device), dict[str, float | None]()
            histories = _histories(request, batch, length)
            modes = [mode for mode in ("whole", "step") if mode in modes_of(model)]
            for quantity, prepared in (
                *((mode, call(mode, model, histories)) for mode in modes),
                ("training", _training_step(model, _histories(request, batch, length + 1))),
            ):
                joules = _joules_of_a_call(prepared, request.device, seconds)
                values[f"{quantity}_joules_per_1000"] = joules / batch * 1000
            yield Figure(name, "energy", batch, length, values, disturbances=watch.conditions()["disturbances"])


def _joules_of_a_call(prepared: Call, device: torch.device, seconds: float) -> float:
    prepared()  # warms up
    meter = kind(device).energy(device)
    assert meter is not None
    calls, end = 0, now(device) + seconds
    while now(device) < end:
        prepared()
        calls += 1
    return meter() / calls


def size(request: Request) -> Iterator[Figure]:
    """Count parameters, with and without those that there are for each item, and FLOPs; see seqbench.measuring.size."""
    for length in request.lengths:
        for name, reference in request.models.items():
            cls = load_model(reference)

            def build(length: int, cls: type[Model] = cls) -> Model:
                return cls(request.items, length, cls.Config())

            yield Figure(name, "size", 1, length, cast(dict[str, float | None], count_size(build, length)))


KINDS: Registry[Callable[[Request], Iterator[Figure]]] = Registry(
    "Quantity",
    {
        "latency": latency,
        "throughput": throughput,
        "memory": memory,
        "training": training,
        "energy": energy,
        "size": size,
    },
    "seqbench bench --help",
)


def run(quantity: str, request: Request) -> Iterator[Figure]:
    """Measure one quantity of all models at all points; figures come as they are measured.

    Raises:
        UsageError: there is no such quantity.
    """
    measure = KINDS[quantity]
    fix_allocator()
    load_optimizer()
    with PRECISIONS[request.precision].active(request.device):
        yield from measure(request)


def users_per_second(serve: Callable[[int], float], largest: int, bound: float) -> tuple[float, float | None]:
    """Return the highest rate of arrivals with 99 % of the waits within a bound, and that percentile in seconds.

    Args:
        serve: answers so many users at once, and returns the seconds that it took.
        largest: users at once, at most.
        bound: seconds.
    """
    for each in {1, largest}:
        serve(each)  # warms up
    if serve(1) > bound:
        return 0.0, None
    low, high = 0.0, max(each / serve(each) for each in (1, largest))
    found: tuple[float, float | None] = (0.0, None)
    for _ in range(TRIALS):
        rate = (low + high) / 2
        p99 = _p99(serve, rate, largest, bound)
        if p99 <= bound:
            low, found = rate, (rate, p99)
        else:
            high = rate
    return found


def _p99(serve: Callable[[int], float], rate: float, largest: int, bound: float) -> float:
    """Return the 99th percentile of the waits at a rate of arrivals; infinity where they go out of hand."""
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / rate, REQUESTS))
    waits: list[float] = []
    now = 0.0
    while len(waits) < REQUESTS:
        now = max(now, arrivals[len(waits)])
        waiting = min(largest, int(np.searchsorted(arrivals, now, side="right")) - len(waits))
        now += serve(waiting)
        waits += [now - arrival for arrival in arrivals[len(waits) : len(waits) + waiting]]
        if sum(wait > bound for wait in waits[-largest:]) > REQUESTS / 100 and waits[-1] > 2 * bound:
            return float("inf")
    return float(np.percentile(waits, 99))


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the median of ratios, and the 95 % interval of it by bootstrap."""
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return statistics.median(ratios), float(low), float(high)


def _points(request: Request) -> Iterator[tuple[int, int]]:
    """Yield batches and lengths that are measured; beyond POSITIONS memory is what is tested."""
    return ((batch, length) for batch in request.batches for length in request.lengths if batch * length <= POSITIONS)


def _build(request: Request, batch: int, length: int) -> tuple[dict[str, Model], dict[str, str]]:
    """Build models for histories of a length, and try each once: those that work, and why others do not."""
    models: dict[str, Model] = {}
    missing: dict[str, str] = {}
    for name, reference in request.models.items():
        cls = load_model(reference)
        torch.manual_seed(0)
        try:
            model = cls(request.items, length + 1, cls.Config()).to(request.device).eval()
            call("whole", model, _histories(request, batch, length))()
            models[name] = model
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            missing[name] = "out of memory"
    return models, missing


def _histories(request: Request, batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, request.items + 1, (batch, length), generator=generator).to(request.device)


def _training_step(model: Model, items: Tensor) -> Call:
    """Return a step on histories (B, T + 1) whose last items are targets."""
    assert isinstance(model, SequenceModel)
    settings = model.training_defaults or TrainingConfig()
    objective = OBJECTIVES[settings.objective if model.config.causal else "prefix"]
    B, T = len(items), items.shape[1] - 1
    targets, places = (
        (items[:, 1:].flatten(), torch.arange(B * T, device=items.device))
        if objective.needs_causality
        else (items[:, -1], (torch.arange(B, device=items.device) + 1) * T - 1)
    )
    inputs = items[:, :-1].contiguous()
    times = synthetic_times(model, inputs)
    batch = Batch(inputs, torch.full((B,), T, device=items.device), targets, places, times)
    loss = LOSSES[settings.loss](settings, torch.ones(model.items + 1, device=items.device))
    optimizers = make_optimizers(model, settings)
    generator = torch.Generator(items.device).manual_seed(0)

    def step() -> None:
        model.train()
        with torch.inference_mode(False), torch.enable_grad():
            states = objective.states(model, batch)
            negatives = loss.draw(batch.targets, generator)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            items = model.item_weights()
            with full(states.device):
                loss(states.to(items.dtype), items, model.item_bias(), batch.targets, negatives).backward()
            for optimizer in optimizers:
                optimizer.step()
        model.eval()

    return step


def _raced(
    request: Request, calls: dict[str, Call], quantity: str, batch: int, length: int, sizes: dict[str, int]
) -> Iterator[Figure]:
    """Time calls that take turns."""
    if not calls:
        return
    raw: dict[str, list[float]] = {name: [] for name in calls}
    names = {id(each): name for name, each in calls.items()}

    def sample(each: Call, count: int) -> float:
        seconds = timing.sample(each, request.device, calls=count)
        raw[names[id(each)]] += seconds
        return statistics.median(seconds)

    watch = Watch(request.device)
    for each in calls.values():
        each()  # warms up
    rounds = compete(calls, request.baseline or "", sample, request.seconds)
    disturbances = watch.conditions()["disturbances"]
    for name in calls:
        point: Any = summarise(quantity, batch, length, raw[name])
        values = {key: point[key] for key in ("p50_ms", "p95_ms", "p99_ms")}
        if quantity == "training":
            values["sequences_per_second"] = batch / point["p50_ms"] * 1000
        if name in sizes:
            values["state_bytes"] = sizes[name]
        figure = Figure(name, quantity, batch, length, values, disturbances=disturbances, unsteady=point["unsteady"])
        if request.baseline in rounds and name != request.baseline:
            pairs = zip(rounds[name], rounds[request.baseline], strict=False)
            figure.ratio = interval([ours / theirs for ours, theirs in pairs])
        yield figure
