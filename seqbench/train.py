"""Training by gradient: batches of similar length, early stopping, resumable at every epoch.

Two objectives. `all-positions`: a window of a sequence is a row, and each of its positions predicts the next item.
`prefix`: every history before a target is a row of its own, and only its last position predicts; the same targets,
each once per epoch, for many times the work. Models that are not causal need it. The protocol's windows are for the
first objective; prefixes are all trained, whatever they are.

Everything random in an epoch (order, dropout, negatives) is drawn from a seed made of the run's seed and the epoch's
number, so a run that was killed and resumed computes what an uninterrupted one does: bit for bit on the CPU, while on a
GPU some of torch's sums have no fixed order.

Shapes: B batch, T time, D width, V items plus padding, N trained positions of a batch.
"""

import errno
import functools
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqbench import losses
from seqbench.data.sequences import Ints, Sequences, pad
from seqbench.errors import Diverged, SeqbenchError, out_of_memory
from seqbench.evaluate import rank
from seqbench.files import replacing
from seqbench.models.base import SequenceModel, TrainingConfig, check_causality, check_objective, check_shape
from seqbench.ops import linear_cross_entropy
from seqbench.protocol import Protocol

# Sequences are sorted by length within shuffled pools of this many batches: almost no padding, and still a new
# composition of every batch in every epoch. Batches of equally many prefixes span more lengths than batches of equally
# many positions: on 100,000 prefixes of geometric lengths up to 200 in batches of 128, 27 % are padding with pools of
# 16, 16 % with pools of 32.
POOL_BATCHES = {"all-positions": 16, "prefix": 32}

# The first steps of a process allocate, tune and warm caches; they are left out of the throughput.
WARMUP_STEPS = 3

PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave and took. Times in seconds; interactions are trained target positions."""

    epoch: int
    loss: float
    validation: float
    train_seconds: float
    evaluate_seconds: float
    timed_interactions: int  # of the steps that count for throughput
    timed_sequences: int
    timed_seconds: float


@dataclass
class TrainingState:
    """Where a training stands, besides its tensors."""

    epoch: int = 0  # finished epochs
    best_epoch: int = 0
    best: float = -1.0
    seconds: float = 0.0  # wall time of all processes that worked on it
    peak_memory: int = 0  # bytes, largest of all processes that worked on it
    history: list[Epoch] = field(default_factory=list)

    def stopped_early(self, training: TrainingConfig) -> bool:
        """Whether the validation metric has not improved for `patience` epochs."""
        return self.epoch - self.best_epoch >= training.patience

    def summary(self, training: TrainingConfig) -> dict[str, Any]:
        """The record's `training` section."""
        return {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early(training),
            "seconds_to_best": sum(
                entry.train_seconds + entry.evaluate_seconds for entry in self.history[: self.best_epoch]
            ),
            "history": [asdict(entry) for entry in self.history],
        }

    def throughput(self) -> dict[str, float | None]:
        """Medians over epochs: interactions/s and sequences/s of steady-state steps, and seconds per epoch."""
        timed = [entry for entry in self.history if entry.timed_seconds > 0]

        def median(values: list[float]) -> float | None:
            return statistics.median(values) if values else None

        return {
            "train_interactions_per_second": median([e.timed_interactions / e.timed_seconds for e in timed]),
            "train_sequences_per_second": median([e.timed_sequences / e.timed_seconds for e in timed]),
            "epoch_seconds": median([entry.train_seconds for entry in self.history]),
        }


class Trainer:
    """Trains one model; `run` returns when it has stopped, with the best epoch's weights in place."""

    def __init__(
        self,
        model: SequenceModel,
        sequences: Sequences,
        *,
        training: TrainingConfig,
        protocol: Protocol,
        seed: int,
        device: torch.device,
        checkpoint: Path,
        emit: Callable[..., None],
        peak_memory: Callable[[], int],
    ) -> None:
        check_objective(model.config, training)
        self.model = model
        self.sequences = sequences
        self.training = training
        self.protocol = protocol
        self.seed = seed
        self.device = device
        self.checkpoint = checkpoint
        self.emit = emit
        self.peak_memory = peak_memory
        self.optimizer = _optimizer(model, training)
        self.state = TrainingState()
        self.best_weights = _copy(model)
        self.warm_steps = 0
        self.by_prefix = training.objective == "prefix"
        self.negatives = torch.Generator(device)  # seeded anew for every epoch

    def resume(self) -> float:
        """Continue from the checkpoint if there is one; returns the seconds that were spent on it so far.

        Raises:
            SeqbenchError: the checkpoint is damaged.
        """
        if self.checkpoint.exists():
            self._load()
            self.emit("resumed", epoch=self.state.epoch)
        return self.state.seconds

    def run(self) -> TrainingState:
        """Train until the epochs or the patience run out, with a checkpoint after every epoch.

        Raises:
            SeqbenchError: the model returns tensors of another shape than it should, or is not causal as it says.
            Diverged: the loss or a score is not finite.
            StorageError: the checkpoint cannot be written.
        """
        if not self.by_prefix:
            check_causality(self.model)
        while self.state.epoch < self.training.epochs and not self.state.stopped_early(self.training):
            self._epoch()
        self.model.load_state_dict(self.best_weights)
        return self.state

    def _epoch(self) -> None:
        started = time.perf_counter()
        number = self.state.epoch + 1
        loss, timed = self._pass(number)
        trained = time.perf_counter()
        valid = rank(self.model, self.sequences, self.sequences.valid(), self.protocol)
        value = float(valid.per_user(self.protocol.selection).mean())
        evaluated = time.perf_counter()
        entry = Epoch(number, loss, value, trained - started, evaluated - trained, *timed)
        state = self.state
        state.history.append(entry)
        state.epoch = number
        if value > state.best:
            state.best, state.best_epoch = value, number
            self.best_weights = _copy(self.model)
        state.peak_memory = max(state.peak_memory, self.peak_memory())
        state.seconds += evaluated - started
        self._save()
        rate = timed[0] / timed[2] if timed[2] else None
        self.emit(
            "epoch",
            **asdict(entry),
            best=state.best,
            best_epoch=state.best_epoch,
            interactions_per_second=rate,
        )

    def _pass(self, number: int) -> tuple[float, tuple[int, int, float]]:
        """One pass over all targets: mean loss, and (interactions, sequences, seconds) of the timed steps."""
        torch.manual_seed(derived_seed(self.seed, number))
        self.negatives.manual_seed(derived_seed(self.seed, number, 1))
        generator = np.random.default_rng([self.seed, number])
        self.model.train()
        starts, lengths = self._rows(generator)
        targets = np.ones_like(lengths) if self.by_prefix else lengths  # of each row
        pool = POOL_BATCHES[self.training.objective]
        batches = list(_batches(lengths, targets, self.training.batch_size, pool, generator))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        positions = timed_interactions = timed_sequences = 0
        clock: float | None = None
        shown = time.perf_counter()
        for index, rows in enumerate(batches):
            if clock is None and self.warm_steps >= WARMUP_STEPS:
                self._synchronize()
                clock = time.perf_counter()
            loss, count = self._step(starts[rows], lengths[rows])
            total += loss.detach() * count
            positions += count
            if clock is None:
                self.warm_steps += 1
            else:
                timed_interactions += count
                timed_sequences += len(rows)
            if time.perf_counter() - shown > PROGRESS_SECONDS:
                shown = time.perf_counter()
                self.emit("step", epoch=number, done=index + 1, total=len(batches))
        self._synchronize()
        seconds = time.perf_counter() - clock if clock is not None else 0.0
        mean = float(total) / positions
        if not np.isfinite(mean):
            raise Diverged(f"The training loss of epoch {number}")
        return mean, (timed_interactions, timed_sequences, seconds)

    def _rows(self, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Starts and lengths of one epoch's rows, as ranges of the flat item array."""
        if self.by_prefix:
            return self.sequences.prefixes(self.protocol.max_len)
        if self.protocol.windows == "lrurec":
            return self.sequences.lrurec_windows(self.protocol.max_len)
        return self.sequences.windows(self.protocol.max_len, generator)

    def _step(self, starts: Ints, lengths: Ints) -> tuple[Tensor, int]:
        """One update on rows (B,): the mean loss, and the number of positions it is the mean of."""
        flat = self.sequences.flat
        inputs, _ = pad(flat, starts, starts + lengths)
        rows = torch.from_numpy(inputs).to(self.device), torch.from_numpy(lengths).to(self.device)
        if self.by_prefix:
            targets = flat[starts + lengths].astype(np.int64)
            states = self.model.last_states(*rows)
            check_shape(self.model, "last_states", states, (len(inputs), self.model.item_weights().shape[1]))
        else:
            targets = pad(flat, starts + 1, starts + lengths + 1)[0][inputs > 0]
            trained = torch.from_numpy(np.flatnonzero(inputs)).to(self.device)
            states = self.model(*rows)
            check_shape(self.model, "forward", states, (*inputs.shape, self.model.item_weights().shape[1]))
            states = states.flatten(0, 1).index_select(0, trained)
        loss = self._loss(states, torch.from_numpy(targets).to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.training.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
        self.optimizer.step()
        return loss, len(targets)

    def _loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of states (N, D) whose next items are the targets (N,)."""
        training, catalogue = self.training, self.sequences.items
        scored = states, self.model.item_weights(), self.model.item_bias(), targets
        if training.loss == "cross-entropy":
            return linear_cross_entropy(*scored)
        if training.loss == "sampled-softmax":
            return losses.sampled_softmax(*scored, *self._proposal.draw(training.negatives, self.negatives))
        negatives = losses.other_items(targets, catalogue, training.negatives, self.negatives)
        beta = losses.gbce_beta(training.negatives, catalogue, training.calibration) if training.loss == "gbce" else 1.0
        return losses.binary_cross_entropy(*scored, negatives, beta)

    @functools.cached_property
    def _proposal(self) -> losses.Proposal:
        """What sampled softmax draws from: all items alike, or by their rank in training."""
        V = self.sequences.items + 1
        weights = (torch.arange(V) > 0).double()
        if self.training.proposal == "log-uniform":
            counts = np.bincount(self.sequences.training_items(), minlength=V)
            weights = losses.log_uniform(torch.from_numpy(counts))
        return losses.Proposal(weights.to(self.device))

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _save(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best_weights.items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in entries.items()}
        with replacing(self.checkpoint) as temporary:
            try:
                save_file(
                    {name: tensor.contiguous() for name, tensor in tensors.items()},
                    temporary,
                    metadata={"state": json.dumps(asdict(self.state))},
                )
            except SafetensorError as error:
                raise _os_error(error) from error

    def _load(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.checkpoint, framework="pt", device=str(self.device)) as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                fields = json.loads(stored.metadata()["state"])
            self._restore(fields, tensors)
        except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            if out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise SeqbenchError(
                f"The checkpoint {self.checkpoint} is damaged ({reason}).",
                hint="Delete it, or repeat the command with --force to train this cell from the start.",
            ) from error

    def _restore(self, fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.state = TrainingState(**{**fields, "history": [Epoch(**entry) for entry in fields["history"]]})
        self.best_weights = _below("best/", tensors)
        self.model.load_state_dict(self.best_weights)  # complete, and of the right shapes?
        self.model.load_state_dict(_below("model/", tensors))
        optimizer = self.optimizer.state_dict()
        for name, tensor in _below("optimizer/", tensors).items():
            index, _, key = name.partition("/")
            optimizer["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(optimizer)


def _os_error(error: Exception) -> OSError:
    """What the operating system said; safetensors only repeats it in words, such as "… (os error 28)"."""
    found = re.search(r"os error (\d+)", str(error))
    code = int(found[1]) if found else errno.EIO
    return OSError(code, os.strerror(code))


def derived_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers, far apart for neighbouring ones."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _optimizer(model: SequenceModel, training: TrainingConfig) -> torch.optim.Optimizer:
    decayed: list[Tensor] = []
    exempt: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (exempt if any(part in name for part in model.no_weight_decay) else decayed).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": training.weight_decay},
            {"params": exempt, "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        fused=True,
    )


def _batches(
    lengths: Ints, targets: Ints, size: int, pool_batches: int, generator: np.random.Generator
) -> Iterator[Ints]:
    """Row indices of each batch: similar lengths together, everything else shuffled.

    A batch holds about as many targets as `size` rows do on average: of rows that are trained at all positions,
    more short ones than long ones. With as many in each, and a loss that is the mean over a batch, a position in a
    short row would weigh several times as much as one in a long row.
    """
    budget = size * targets.mean()
    order = generator.permutation(len(lengths))
    batches: list[Ints] = []
    for at in range(0, len(order), size * pool_batches):
        pool = order[at : at + size * pool_batches]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        total = targets[pool].sum()
        share = total / max(1, round(total / budget))  # an even one: no batch of a pool is what was left over
        before = np.cumsum(targets[pool]) - targets[pool]
        batches += np.split(pool, np.flatnonzero(np.diff(before // share)) + 1)
    for index in generator.permutation(len(batches)):
        yield batches[index]


def _copy(model: SequenceModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
