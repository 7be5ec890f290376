"""Verify, then time: every backend and peer, on every shape, forward and forward plus backward."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from seqbench import console
from seqbench.device import Call
from seqbench.errors import UsageError, out_of_memory
from seqbench.measuring.quiet import listen
from seqbench.ops.backends import BACKENDS
from seqbench.speed.choices import WORKLOADS
from seqbench.speed.peers import PEERS, Peer, identity
from seqbench.speed.request import Request
from seqbench.speed.timing import Sampler, compete, sampler
from seqbench.speed.verify import Deviation, deviation, reference
from seqbench.speed.workloads import OUTPUT, PASSES, Inputs, Shape, Workload, leaves

COPIES = COPY, FRESH_COPY = "copy", "fresh copy"
PLAIN, TORCH = "plain", "torch"


@dataclass(frozen=True)
class Competitor:
    """One way to compute an operator; conversions to its layout and back are not timed."""

    name: str
    kind: str  # "backend", "peer", or "baseline"
    run: Callable[[Inputs], Tensor]
    prepare: Callable[[Inputs], Inputs] = identity
    finish: Callable[[Tensor], Tensor] = identity


@dataclass
class Entry:
    """What one competitor gave in one case."""

    name: str
    kind: str
    status: str = "measured"  # or "wrong", "failed", "skipped"
    reason: str | None = None  # where there is no time
    deviation: Deviation | None = None  # None for copies and for what did not run
    seconds: list[float] = field(default_factory=list)  # per call, by round
    ratios: list[float] = field(default_factory=list)  # to the baseline, by round
    speedups: list[float] = field(default_factory=list)  # against the torch backend, by round


@dataclass
class Case:
    """One operator, shape and pass."""

    workload: Workload
    shape: Shape
    passes: str
    bytes: int
    entries: list[Entry]

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; 0 for an operator without any."""
        forward = 0 if self.workload.plain is None else 2 * math.prod(self.shape)
        return forward if self.passes == PASSES[0] else 3 * forward

    def named(self, name: str) -> Entry | None:
        """Return the entry of a competitor, if it took part."""
        return next((entry for entry in self.entries if entry.name == name), None)


@dataclass(frozen=True)
class Absent:
    """A competitor that cannot take part in an operator's cases."""

    name: str
    workload: str
    reason: str


@dataclass
class Benchmark:
    """All cases, and who is absent from which."""

    request: Request
    busy_cores: float  # that others kept busy just before
    disturbances: list[str] = field(default_factory=list)  # then, in words
    cases: list[Case] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)

    def timed(self, name: str) -> bool:
        """Tell whether this competitor took part in any case."""
        return any(case.named(name) is not None for case in self.cases)


def run(request: Request) -> Iterator[Benchmark]:
    """Verify and time everything; yield the same benchmark whenever an operator is finished.

    Raises:
        UsageError: nothing that was asked for can run here.
    """
    found = listen(request.device)
    benchmark = Benchmark(request, found["busy_cores"], found["disturbances"])
    if benchmark.disturbances:
        hint = "Threads that wait for each other suffer most; OMP_NUM_THREADS=1 measures one."
        console.warn(f"{'; '.join(benchmark.disturbances)}: times will be noisy. {hint}")
    ready = {name: list(_competitors(WORKLOADS[name], benchmark)) for name in request.shapes}
    if not any(ready.values()):
        reasons = dict.fromkeys(f"{absent.name}: {absent.reason}" for absent in benchmark.absent)
        raise UsageError(
            f"Nothing can be timed on {request.device}: {'; '.join(reasons) or 'no backend has these operators'}.",
            hint="See `seqbench env`.",
        )
    sample = sampler(request.device)
    for name, competitors in ready.items():
        for shape in request.shapes[name] if competitors else ():
            console.note(f"{name} {'x'.join(map(str, shape))}")
            benchmark.cases += _time(_Problem(WORKLOADS[name], shape, request), competitors, sample, request.seconds)
        yield benchmark


def _competitors(workload: Workload, benchmark: Benchmark) -> Iterator[Competitor]:
    """Yield those of the request that can run the operator here; note the reasons of the others."""
    request = benchmark.request
    device = request.device.type
    for name in request.competitors:
        peer = PEERS.get(name)
        if peer is not None and workload.name not in peer.workloads:
            continue
        competitor = None
        if workload.dtype(request.dtype) is None:
            reason: str | None = f"there is no complex {str(request.dtype).removeprefix('torch.')}"
        elif peer is None:
            reason = BACKENDS[name].unavailable(workload.operator, device)
            competitor = Competitor(name, "backend", partial(workload.run, backend=name))
        elif not peer.installed:
            reason = "not installed"
        elif device not in peer.devices:
            reason = f"it runs on {' and '.join(peer.devices)} only"
        else:
            competitor, reason = _import(peer, request.device)
        if competitor is not None and reason is None:
            yield competitor
        elif reason is not None:
            benchmark.absent.append(Absent(name, workload.name, reason))


def _import(peer: Peer, device: torch.device) -> tuple[Competitor | None, str | None]:
    """Import a peer, or return why it cannot be. Some compile when they are imported, and say so on stdout."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            run = peer.load(device)
    except Exception as error:
        return None, f"cannot be imported: {_words(error)}"
    return Competitor(peer.name, "peer", run, peer.prepare, peer.finish), None


class _Problem:
    """The tensors of one operator and shape."""

    def __init__(self, workload: Workload, shape: Shape, request: Request) -> None:
        generator = torch.Generator(request.device).manual_seed(0)
        dtype = workload.dtype(request.dtype)
        assert dtype is not None
        self.workload, self.shape, self.dtype = workload, shape, request.dtype
        self.device = request.device
        self.inputs = workload.make(shape, dtype, generator)
        output = workload.output_shape(shape)
        real = torch.randn((*output, 2) if dtype.is_complex else output, generator=generator, device=self.device)
        self.cotangent = (torch.view_as_complex(real) if dtype.is_complex else real).to(dtype)

    def verify(self, competitor: Competitor, expected: Inputs) -> list[Entry]:
        """Return an entry for each pass; nothing is timed yet."""
        entries = []
        for compute in (self._outputs, self._gradients)[: len(self.workload.passes)]:
            entry = Entry(competitor.name, competitor.kind)
            entries.append(entry)
            if competitor.kind == "peer" and (reason := PEERS[competitor.name].refuses(self.shape)):
                entry.status, entry.reason = "skipped", reason
                continue
            try:
                entry.deviation = deviation(compute(competitor), expected, self.dtype)
            except Exception as error:
                entry.status, entry.reason = "failed", _words(error)
                continue
            if entry.deviation.wrong:
                entry.status = "wrong"
                entry.reason = (
                    f"{entry.deviation.tensor} differs by {entry.deviation.error:.1e} of its largest value, "
                    f"{entry.deviation.tolerance:.0e} is allowed"
                )
        return entries

    def _outputs(self, competitor: Competitor) -> Inputs:
        return {OUTPUT: competitor.finish(competitor.run(competitor.prepare(self.inputs)))}

    def _gradients(self, competitor: Competitor) -> Inputs:
        inputs = _differentiable(self.inputs)
        output = competitor.finish(competitor.run(competitor.prepare(inputs)))
        wanted = leaves(inputs)
        gradients = torch.autograd.grad(output, list(wanted.values()), self.cotangent)
        return {OUTPUT: output.detach(), **dict(zip(wanted, gradients, strict=True))}

    def call(self, competitor: Competitor, passes: str) -> Call:
        """Return what is timed, on tensors in the competitor's layout."""
        own = {name: tensor.detach() for name, tensor in competitor.prepare(self.inputs).items()}
        if passes == PASSES[0]:
            return lambda: competitor.run(own)
        output = competitor.run(own).requires_grad_()
        (cotangent,) = torch.autograd.grad(competitor.finish(output), output, self.cotangent)
        cotangent = cotangent.contiguous()
        trained = _differentiable(own)
        wanted = list(leaves(trained).values())
        return lambda: torch.autograd.grad(competitor.run(trained), wanted, cotangent)

    def copies(self, moved: int) -> dict[str, Call]:
        """Return copies of as many bytes, half of them read and half written: into memory that exists, and into new."""
        source = torch.ones(max(1, moved // 8), dtype=torch.float32, device=self.device)
        target = source.clone()
        return {COPY: lambda: target.copy_(source), FRESH_COPY: lambda: source.clone()}


def _time(problem: _Problem, competitors: list[Competitor], sample: Sampler, seconds: float) -> list[Case]:
    """Time the cases of a problem."""
    workload = problem.workload
    if workload.plain is not None:
        finish = identity if workload.complete is None else partial(workload.complete, problem.inputs)
        competitors = [Competitor(PLAIN, "baseline", workload.plain, finish=finish), *competitors]
    try:
        expected = reference(workload, problem.shape, problem.inputs, problem.cotangent)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        console.warn(f"{workload.name} {problem.shape}: no memory for the reference in float64; skipped.")
        return []
    checked = [problem.verify(competitor, expected) for competitor in competitors]
    moved = workload.bytes_moved(problem.inputs, expected[OUTPUT].to(problem.cotangent.dtype))
    del expected
    cases = []
    for index, passes in enumerate(workload.passes):
        entries = [both[index] for both in checked]
        calls: dict[str, Call] = {}
        for competitor, entry in zip(competitors, entries, strict=True):
            if entry.status == "measured":
                try:
                    calls[competitor.name] = problem.call(competitor, passes)
                except Exception as error:
                    entry.status, entry.reason = "failed", _words(error)
        if workload.plain is None:
            copies = problem.copies(moved[index])
            calls |= copies
            entries = [*(Entry(name, "baseline") for name in copies), *entries]
        samples = compete(calls, workload.baseline, sample, seconds)
        for entry in entries:
            if entry.status == "measured":
                entry.seconds = samples[entry.name]
                entry.ratios = _by_round(entry.seconds, samples.get(workload.baseline, []))
                entry.speedups = _by_round(samples.get(TORCH, []), entry.seconds)
        cases.append(Case(workload, problem.shape, passes, moved[index], entries))
    return cases


def _by_round(numerators: list[float], denominators: list[float]) -> list[float]:
    """Divide the samples of the rounds that both took part in."""
    return [a / b for a, b in zip(numerators, denominators, strict=False)]


def _differentiable(inputs: Inputs) -> Inputs:
    wanted = leaves(inputs)
    return {n: t.detach().requires_grad_() if n in wanted else t for n, t in inputs.items()}


def _words(error: BaseException) -> str:
    """Return the first line of an error."""
    if out_of_memory(error):
        return "out of memory"
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
