"""One training by several processes: torchrun starts them, all hold the model, and each has a share of every batch.

Everything that has to do with their number is here. A `Group` of one process does nothing, so that nobody has to ask.
The gradients of a batch are summed over its shares (data parallelism, without a wrapper around the model): what one
process computes, up to the order in which numbers are added.

Shapes: B rows of a batch, N trained positions of it.
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from seqbench.data.sequences import Ints
from seqbench.errors import SeqbenchError, UsageError

# How long a process waits for the others in the middle of a training, where all do the same.
PATIENCE = timedelta(minutes=10)
# How long it waits for something to do, while the first one prepares data or measures latency.
LEISURE = timedelta(days=30)

# Gradients of fewer numbers are sent together, so that a step costs one message and not one for every bias.
LARGE = 1 << 16

_groups = count()  # of this process so far; their messages must not mix


class Lost(SeqbenchError):
    """Another process of the group has ended, or does not answer; the cause is what torch says of that."""

    def __init__(self) -> None:
        super().__init__(
            "Another process of this training has ended, or does not answer.",
            hint="Repeat the command to go on after the last finished epoch.",
        )


class Share(NamedTuple):
    """What one process has of a batch."""

    rows: slice  # of B
    positions: slice  # of N
    weight: float  # of the mean over them, in the mean over the batch


@dataclass
class Group:
    """The processes of one training, seen from one of them; by default that is the only one.

    Args:
        rank: number of this process, from 0.
        size: how many there are.
        local: number of this process among those of its machine.
        neighbours: process numbers, for the operating system, of the others on this machine.
        store: what the processes leave notes for each other in.
        control: the group that orders are sent in, which waits without an end.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    neighbours: tuple[int, ...] = ()
    store: Store | None = None
    control: dist.ProcessGroup | None = None
    broken: bool = False  # whether its processes may be at different places: no message is understood any more

    @property
    def first(self) -> bool:
        """Return whether this process is the one that stores, measures and shows."""
        return self.rank == 0

    def share(self, counts: Ints) -> Share:
        """Return this process's share of a batch: rows that follow each other, with about equally many positions.

        Where there are fewer rows than processes, some take part with a row that does not count.

        Args:
            counts: (B,) trained positions of each row, at least one.
        """
        ends = np.cumsum(counts)
        total = int(ends[-1])
        middles = 2 * ends - counts
        start, stop = np.searchsorted(middles * self.size, 2 * total * np.array([self.rank, self.rank + 1])).tolist()
        if start == stop:
            return Share(slice(0, 1), slice(0, int(counts[0])), 0.0)
        before, behind = int(ends[start] - counts[start]), int(ends[stop - 1])
        return Share(slice(start, stop), slice(before, behind), (behind - before) / total)

    def seed_parts(self) -> tuple[int, ...]:
        """Return what makes a seed that of this process alone; nothing for the first one."""
        return (0, self.rank) if self.rank else ()

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes, and return it.

        Raises:
            Lost: another process has ended.
        """
        if self.size > 1:
            self._add([tensor])
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any process is set."""
        return bool(self.sum(torch.tensor(int(flag))))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every parameter the sum of its gradients; one without a gradient in any process keeps none.

        Raises:
            Lost: another process has ended.
        """
        if self.size == 1:
            return
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        reached = torch.tensor([float(each.grad is not None) for each in parameters]).to(gradients[0].device)
        small = [each for each in gradients if each.numel() < LARGE]
        together = torch.cat([reached, *(each.flatten() for each in small)])
        self._add([together, *(each for each in gradients if each.numel() >= LARGE)])
        reached, *sums = together.split([len(reached), *(each.numel() for each in small)])
        for each, total in zip(small, sums, strict=True):
            each.copy_(total.view_as(each))
        for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if parameter.grad is None and reached[number] > 0:
                parameter.grad = gradient

    def _add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over the processes."""
        with _talking():
            for work in [dist.all_reduce(each, async_op=True) for each in tensors]:
                work.wait()

    def check_resumed(self, epoch: int) -> None:
        """Find out whether all processes go on after the same epoch.

        Raises:
            SeqbenchError: they do not.
        """
        epochs = torch.zeros(self.size, dtype=torch.int64)
        epochs[self.rank] = epoch
        if self.sum(epochs).unique().numel() > 1:
            raise SeqbenchError(
                f"The processes of this training go on after different epochs: {', '.join(map(str, epochs.tolist()))}.",
                hint="All machines must see the same folder --results.",
            )

    def device(self, name: str) -> str:
        """Return the device of this process where that of the first one is given: a GPU of its own, or the CPU."""
        if not name.startswith("cuda"):
            return name
        torch.cuda.set_device(self.local)
        return f"cuda:{self.local}"

    def tell(self, text: str) -> None:
        """Send a text from the first process to all others, which `hear` it."""
        if self.size > 1:
            content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.zeros(0)
            with _talking():
                dist.broadcast(torch.tensor(len(content)), 0, group=self.control)
                if text:
                    dist.broadcast(content, 0, group=self.control)

    def hear(self) -> str:
        """Wait for the text that the first process tells; an empty one says that there is nothing left to do.

        Raises:
            Lost: the first process has ended.
        """
        length = torch.tensor(0)
        with _talking():
            dist.broadcast(length, 0, group=self.control)
            content = torch.zeros(int(length), dtype=torch.uint8)
            if len(content):
                dist.broadcast(content, 0, group=self.control)
        return content.numpy().tobytes().decode()

    def report(self, failure: str) -> None:
        """Leave word of why this process is about to end, which the first one finds when it has noticed."""
        assert self.store is not None
        self.store.set("failure", failure)
        self.broken = True

    def reported(self) -> str | None:
        """Return the word that another process has left, if one has."""
        if self.store is None or not self.store.check(["failure"]):
            return None
        return str(self.store.get("failure"), "utf-8")


ALONE = Group()


def world_size() -> int:
    """Return how many processes torchrun has started, this one included; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def first() -> bool:
    """Return whether this process is the first that torchrun has started, or the only one."""
    return world_size() == 1 or os.environ["RANK"] == "0"


def refuse(command: str) -> None:
    """Raise UsageError if torchrun has started several processes, with which a command can do nothing."""
    if world_size() > 1:
        raise UsageError(f"{command} is for one process.", hint="Start it without torchrun.")


@contextmanager
def together() -> Iterator[Group]:
    """Bring the processes that torchrun has started together; at the end, the first one lets the others go.

    GPUs talk through NCCL, and everything else through Gloo.
    """
    if world_size() == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _talking():
        shared, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun keeps one store when it starts processes again: addresses of those before must not be found.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"seqbench/{attempt}/{next(_groups)}", shared)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        control = dist.new_group(backend="gloo", timeout=LEISURE)
        store.set(f"process/{rank}", json.dumps([platform.node(), os.getpid()]))
        others = [json.loads(store.get(f"process/{number}")) for number in range(size) if number != rank]
    neighbours = tuple(number for machine, number in others if machine == platform.node())
    group = Group(rank, size, int(os.environ["LOCAL_RANK"]), neighbours, store, control)
    try:
        yield group
    finally:
        if not group.broken:
            if group.first:
                group.tell("")
            dist.destroy_process_group()


@contextmanager
def _talking() -> Iterator[None]:
    """Let what goes wrong between processes be known as that."""
    try:
        yield
    except RuntimeError as error:
        raise Lost from error
