"""One training by several processes: what one process gives, up to the order in which numbers are added."""

import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from seqbench.distributed import Group
from seqbench.errors import SeqbenchError, UsageError
from seqbench.evaluation.ranking import rank
from seqbench.execution import several
from seqbench.losses import LOSSES
from seqbench.models import load_model
from seqbench.protocol import Protocol
from seqbench.training.loop import Trainer
from tests.kit import PATIENCE, SMALL, TINY, Bench, Running, all_gone
from tests.trainkit import MAX_LEN, make_trainer, random_sequences, small_model

T = TypeVar("T")


@dataclass
class Table:
    """Where the threads of a test lay their tensors down to be added."""

    size: int
    tensors: dict[int, Sequence[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size)


@dataclass
class Threads(Group):
    """A group whose processes are threads."""

    table: Table = field(default_factory=lambda: Table(1))

    def _add(self, tensors: Sequence[Tensor]) -> None:
        self.table.tensors[self.rank] = [each.clone() for each in tensors]
        self.table.barrier.wait(PATIENCE)
        laid = [self.table.tensors[number] for number in range(self.size)]
        self.table.barrier.wait(PATIENCE)
        for tensor, parts in zip(tensors, zip(*laid, strict=True), strict=True):
            tensor.copy_(torch.stack(parts).sum(dim=0))


def in_threads(size: int, work: Callable[[Group], T]) -> list[T]:
    """What a piece of work gives in each process of a group."""
    with ThreadPoolExecutor(size, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, groups(size)))


def groups(size: int) -> list[Threads]:
    table = Table(size)
    return [Threads(number, size, table=table) for number in range(size)]


def train(
    size: int,
    *,
    name: str = "lrurec",
    stored: Callable[[int], Path] | None = None,
    dropout: float = 0.0,
    **changes: Any,
) -> list[Trainer]:
    """The trainers of a group, after training. Threads share torch's generator: only dropout may draw from it."""
    config = {each.name: dropout for each in fields(load_model(name).Config) if each.name.endswith("dropout")}
    trainers = [
        make_trainer(name, watched={"group": group}, checkpoint=stored and stored(group.rank), config=config, **changes)
        for group in groups(size)
    ]
    for trainer in trainers:
        trainer.model.double()  # so that Adam makes nothing of sums that are rounded in another order

    def work(group: Group) -> Trainer:
        trainers[group.rank].resume()
        trainers[group.rank].run()
        return trainers[group.rank]

    return in_threads(size, work)


def losses(trainer: Trainer) -> list[float]:
    return [each.loss for each in trainer.state.history]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_of_a_batch_is_in_one_share(size: int) -> None:
    counts = np.sort(np.random.default_rng(0).integers(1, 50, 40))
    shares = [Group(rank=number, size=size).share(counts) for number in range(size)]
    assert [row for share in shares for row in range(40)[share.rows]] == list(range(40))
    assert [each for share in shares for each in range(counts.sum())[share.positions]] == list(range(counts.sum()))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    for share in shares:
        positions = counts[share.rows].sum()
        assert share.weight == positions / counts.sum()
        assert abs(positions - counts.sum() / size) < counts.max()


def test_a_process_that_gets_no_row_takes_part_with_one_that_does_not_count() -> None:
    shares = [Group(rank=number, size=3).share(np.array([4])) for number in range(3)]
    assert all(share.rows == slice(0, 1) and share.positions == slice(0, 4) for share in shares)
    assert sorted(share.weight for share in shares) == [0, 0, 1]


CASES = [{"loss": name, "negatives": 5} for name in LOSSES]
CASES += [
    {"loss": "bce", "negatives": 5, "shared_negatives": True},
    {"loss": "cross-entropy", "objective": "prefix"},
    {"loss": "cross-entropy", "name": "sasrec", "batch_size": 1, "epochs": 1},  # fewer rows than processes
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_processes_learn_what_one_does(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    monkeypatch.setattr("seqbench.distributed.LARGE", 100)  # so that some gradients are sent by themselves
    case = {"epochs": 2, **case, "clip_norm": 0.1}
    (alone,) = train(1, **case)
    for trainer in train(3, **case):
        assert losses(trainer) == pytest.approx(losses(alone), rel=1e-9)
        assert [each.validation for each in trainer.state.history] == [each.validation for each in alone.state.history]
        assert trainer.state.history[0].timed_interactions == alone.state.history[0].timed_interactions
        for name, tensor in trainer.model.state_dict().items():
            torch.testing.assert_close(tensor, alone.model.state_dict()[name], rtol=1e-6, atol=1e-8)


def test_processes_hold_equal_weights_and_drop_other_values() -> None:
    first, second = (trainer.model.state_dict() for trainer in train(2, dropout=0.5, epochs=1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {Group(rank=number, size=3).seed_parts() for number in range(3)} == {(), (0, 1), (0, 2)}


def test_ranks_are_divided_and_the_same() -> None:
    sequences = random_sequences(users=300)
    model = small_model("lrurec").eval()

    def ranked(group: Group) -> Any:
        return rank(model, sequences, sequences.test(), Protocol(max_len=MAX_LEN), top=5, group=group)

    alone = ranked(Group())
    for found in in_threads(2, ranked):
        for name in ("users", "better", "ties", "top"):
            assert np.array_equal(getattr(found, name), getattr(alone, name))


def test_only_the_first_process_stores_a_checkpoint_and_all_resume_it(tmp_path: Path) -> None:
    train(2, stored=lambda number: tmp_path / str(number), epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    shutil.copy(tmp_path / "0", tmp_path / "copy")
    resumed = train(2, stored=lambda number: tmp_path / "0", epochs=3)
    whole = train(2, stored=lambda number: tmp_path / "other", epochs=3)
    assert losses(resumed[0]) == losses(resumed[1]) == losses(whole[1])
    with pytest.raises(SeqbenchError, match="go on after different epochs: 3, 1"):
        train(2, stored=lambda number: tmp_path / ("copy" if number else "0"), epochs=4)


def test_a_gradient_that_only_some_processes_have_is_that_of_all() -> None:
    def gradients(group: Group) -> list[Tensor | None]:
        parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        parameters[0].grad = torch.full((2,), 1.0 + group.rank)
        if group.rank:
            parameters[1].grad = torch.ones(2)
        group.sum_gradients(parameters)
        return [each.grad for each in parameters]

    for both, one, none in in_threads(2, gradients):
        assert both is not None
        assert one is not None
        assert (both.tolist(), one.tolist(), none) == ([3, 3], [1, 1], None)


def test_what_is_for_one_process_is_refused(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    with pytest.raises(SeqbenchError, match="sparse_items is for one process"):
        make_trainer(watched={"group": Group(size=2)}, sparse_items=True, loss="sampled-softmax")
    with pytest.raises(UsageError, match="trained by one process each"):
        several.choose("ray", Group(size=2))
    slots = several.choose("process", Group(size=2, neighbours=(1,))).slots
    with pytest.raises(UsageError, match="one cell at a time"):
        slots(["cpu"], 2, 4)
    with pytest.raises(UsageError, match="2 processes need as many GPUs; this run has cuda:1"):
        slots(["cuda:1"], None, 4)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for words in (("tune", "--models", "lrurec"), ("measure",)):
        outcome = bench.call(*words)
        assert outcome.code == 2
        assert "is for one process. Start it without torchrun." in outcome.words


WORDS = ("run", *TINY, *SMALL, "--set", "lrurec.dropout=0")


def start(bench: Bench, *words: object, restarts: int = 0) -> Running:
    """Start a command in two processes."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [*launcher, "--max-restarts", str(restarts), "-m", "seqbench", *WORDS, *map(str, words)]
    return Running(command, bench.environment())


def ranks_of(running: Running) -> list[psutil.Process]:
    """Return the processes that torchrun has started, by rank."""
    return sorted(psutil.Process(running.process.pid).children(), key=lambda each: int(each.environ()["RANK"]))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(bench: Bench) -> None:
    chosen = ("--models", "lrurec,popularity", "--epochs", "3")
    assert bench.call(*WORDS, *chosen, "--executor", "inline").code == 0
    outcome = start(bench, *chosen).wait()
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("epoch 3/3") == 1
    assert "1 of 2 cells are finished" in outcome.err  # that of popularity: one process does it in any case
    records = [json.loads(path.read_text()) for path in bench.results.glob("*/lrurec/*/record.json")]
    alone, both = sorted(records, key=lambda record: record["definition"]["world_size"])
    assert both["definition"]["world_size"] == 2
    assert both["accuracy"] == pytest.approx(alone["accuracy"], abs=1e-6)
    losses = [[entry["loss"] for entry in each["training"]["history"]] for each in (both, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert both["cost"]["latency"]


@pytest.mark.slow
def test_processes_end_together_and_go_on(bench: Bench) -> None:
    chosen = ("--models", "lrurec", "--epochs", "2000")
    running = start(bench, *chosen, restarts=1)
    assert running.saw("epoch 3/2000")
    before = ranks_of(running)
    before[1].kill()
    assert running.saw("resumed after epoch"), "by torchrun itself"
    assert all_gone(before)
    ranks = ranks_of(running)
    ranks[0].kill()
    assert running.wait().code != 0
    assert all_gone(ranks)

    running = start(bench, *chosen)
    assert running.saw("resumed after epoch")
    ranks = ranks_of(running)
    running.process.send_signal(signal.SIGINT)
    assert running.wait().code != 0
    assert all_gone(ranks)


FAULTY = """
import os
from seqbench.models.lrurec import LRURec
class Faulty(LRURec):
    def forward(self, *inputs):
        if os.environ["RANK"] in {ranks}:
            raise RuntimeError("this will not do")
        return super().forward(*inputs)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "place"), [(("1",), "rank 1: "), (("0",), ""), (("0", "1"), "")])
def test_an_error_in_one_process_ends_both(bench: Bench, tmp_path: Path, ranks: tuple[str, ...], place: str) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY.format(ranks=ranks))
    running = start(bench, "--models", f"lrurec,{tmp_path / 'faulty.py'}:Faulty", "--epochs", "1")
    outcome = running.wait()
    assert outcome.code == 1
    assert f"seed 0: {place}RuntimeError: this will not do" in outcome.err
    assert bench.record("lrurec")["status"] == "finished"
    assert bench.record("Faulty")["status"] == "failed"
