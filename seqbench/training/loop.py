"""The training loop: epochs over all rows, early stopping, resumable at every epoch.

Everything random in an epoch (order, dropout, negatives) is drawn from a seed made of the run's seed and the epoch's
number, so a run that was killed and resumed computes what an uninterrupted one does: bit for bit on the CPU, while on a
GPU some of torch's sums have no fixed order.

Shapes: B batch, T time, D width, V items plus padding, N trained positions of a batch.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqbench.data.sequences import Examples, Ints, Sequences
from seqbench.device import kind, now
from seqbench.distributed import ALONE, Group
from seqbench.errors import Diverged, OutOfTime, SeqbenchError
from seqbench.evaluation.ranking import rank
from seqbench.events import PROGRESS_SECONDS, EpochEnded, Listener, Resumed, Step, following
from seqbench.losses import LOSSES, Negatives
from seqbench.models.base import SequenceModel, TrainingConfig
from seqbench.models.checks import check_causality, check_objective
from seqbench.models.times import times_of
from seqbench.precision import full
from seqbench.protocol import Protocol
from seqbench.training import checkpoint
from seqbench.training.batches import batches
from seqbench.training.memory import check_memory
from seqbench.training.objectives import OBJECTIVES, Batch
from seqbench.training.optimizer import make_optimizers
from seqbench.training.sparse import ItemTable
from seqbench.training.state import Epoch, TrainingState

# The first steps of a process allocate, tune and warm caches; they are left out of the throughput.
WARMUP_STEPS = 3


class Trainer:
    """Trains one model; `run` returns when it has stopped, with the best epoch's weights in place.

    Args:
        model: on the device that it is to be trained on.
        training: its paper's settings if not given.
        checkpoint: file to store the training in after every epoch; nothing is stored if not given.
        emit: called with `MemoryNeeded`, `Resumed`, `Step` and `EpochEnded` as things happen.
        peak_memory: bytes that the process has held at most so far.
        clock: seconds since some moment.
        until: what `time.time()` is when training must be over; an epoch that would take longer is not begun.
        bars: by epoch, below what best validation figure training is given up.
        group: the processes that train this model together. The first one stores the checkpoint, which all resume.

    Raises:
        ValueError: the objective would show the model the items that it is to predict.
        SeqbenchError: there is less memory than training holds, or several processes are to train row by row.
    """

    def __init__(
        self,
        model: SequenceModel,
        sequences: Sequences,
        *,
        training: TrainingConfig | None = None,
        protocol: Protocol | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
        emit: Listener | None = None,
        peak_memory: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.perf_counter,
        until: float | None = None,
        bars: Seq[float] = (),
        group: Group = ALONE,
    ) -> None:
        self.model = model
        self.sequences = sequences
        self.training = training or model.training_defaults or TrainingConfig()
        self.protocol = protocol or Protocol()
        self.seed = seed
        self.checkpoint = checkpoint
        self.emit = emit or (lambda event: None)
        self.peak_memory = peak_memory
        self.clock = clock
        self.until = until
        self.bars = bars
        self.group = group
        check_objective(model.config, self.training)
        self.device = model.item_weights().device
        self.objective = OBJECTIVES[self.training.objective]
        counts = np.bincount(sequences.training_items(), minlength=sequences.items + 1)
        self.loss = LOSSES[self.training.loss](self.training, torch.from_numpy(counts).to(self.device))
        self.validation = _sample(sequences.valid(), self.training.validate_users)
        if self.training.sparse_items and group.size > 1:
            raise SeqbenchError(
                "sparse_items is for one process: the rows of a step differ between the processes of a training.",
                hint="Use --set sparse_items=false, or start the command without torchrun.",
            )
        self.table = ItemTable(model) if self.training.sparse_items else None
        self.emit(check_memory(model, self.training, self.table))
        self.optimizers = make_optimizers(model, self.training, self.table)
        self.state = TrainingState()
        self.best_weights = _copy(model)
        self.warm_steps = 0
        self.generator = torch.Generator(self.device)  # of the negatives; seeded anew for every epoch

    def resume(self) -> float:
        """Continue from the checkpoint if there is one; return the seconds that were spent on it so far.

        Raises:
            SeqbenchError: the checkpoint is damaged, or another process of the group has another one.
        """
        if self.checkpoint and self.checkpoint.exists():
            self.best_weights, self.state = checkpoint.load(self.checkpoint, self.model, self.optimizers)
            self.emit(Resumed(self.state.epoch))
        self.group.check_resumed(self.state.epoch)
        return self.state.seconds

    def run(self) -> TrainingState:
        """Train until the epochs or the patience run out, or a bar is missed, with a checkpoint after every epoch.

        Raises:
            SeqbenchError: the model returns tensors of another shape than it should, or is not causal as it says.
            Diverged: the loss or a score is not finite.
            StorageError: the checkpoint cannot be written.
            OutOfTime: there is no time for another epoch.
        """
        if self.objective.needs_causality:
            with full(self.device):
                check_causality(self.model)
        while not self.complete and not self.state.below(self.bars):
            self._check_time()
            self._epoch()
        self.model.load_state_dict(self.best_weights)
        return self.state

    def _check_time(self) -> None:
        """Raise OutOfTime if an epoch as long as the last one would end too late."""
        last = self.state.history[-1:]
        needed = sum(each.train_seconds + each.evaluate_seconds for each in last)
        if self.until is not None and self.group.any(time.time() + needed > self.until):
            raise OutOfTime(self.state.epoch)

    @property
    def complete(self) -> bool:
        """Return whether the epochs or the patience have run out."""
        return self.state.epoch >= self.training.epochs or self.state.stopped_early(self.training)

    def _epoch(self) -> None:
        began = self.clock()
        number = self.state.epoch + 1
        # Nobody sums over the devices of a group.
        meter = kind(self.device).energy(self.device) if self.group.size == 1 else None
        loss, timed = self._pass(number)
        trained = self.clock()
        joules = None if meter is None else meter()
        value = self._validate(number)
        entry = Epoch(number, loss, value, trained - began, self.clock() - trained, *timed, joules)
        if self.state.add(entry):
            self.best_weights = _copy(self.model)
        self.state.peak_memory = max(self.state.peak_memory, self.peak_memory())
        if self.checkpoint and self.group.first:
            checkpoint.save(self.checkpoint, self.model, self.best_weights, self.optimizers, self.state)
        self.emit(
            EpochEnded(
                epoch=number,
                loss=loss,
                validation=value,
                best=self.state.best,
                best_epoch=self.state.best_epoch,
                train_seconds=entry.train_seconds,
                evaluate_seconds=entry.evaluate_seconds,
                interactions_per_second=(
                    entry.timed_interactions / entry.timed_seconds if entry.timed_seconds else None
                ),
            )
        )

    def _validate(self, number: int) -> float | None:
        """Return the validation metric after an epoch, if it is one to validate after. The last one always is."""
        if number % self.training.validate_every and number < self.training.epochs:
            return None
        progress = following(f"validating epoch {number}", self.emit)
        ranks = rank(self.model, self.sequences, self.validation, self.protocol, progress=progress, group=self.group)
        return float(ranks.per_user(self.protocol.selection).mean())

    def _pass(self, number: int) -> tuple[float, tuple[int, int, float]]:
        """Train all rows once; return the mean loss, and (interactions, sequences, seconds) of the timed steps."""
        torch.manual_seed(derived_seed(self.seed, number, *self.group.seed_parts()))  # of dropout
        self.generator.manual_seed(derived_seed(self.seed, number, 1))
        generator = np.random.default_rng([self.seed, number])
        self.model.train()
        starts, lengths = self.objective.rows(self.sequences, self.protocol, generator)
        targets = self.objective.targets(lengths)
        steps = list(batches(lengths, targets, self.training.batch_size, self.objective.pool_batches, generator))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        interactions = sequences = 0
        timed_from: float | None = None
        shown = self.clock()
        for index, rows in enumerate(steps):
            if timed_from is None and self.warm_steps >= WARMUP_STEPS:
                timed_from = now(self.device, self.clock)
            loss = self._step(starts[rows], lengths[rows])
            count = int(targets[rows].sum())
            total += loss.detach() * count
            if timed_from is None:
                self.warm_steps += 1
            else:
                interactions += count
                sequences += len(rows)
            if self.clock() - shown > PROGRESS_SECONDS:
                shown = self.clock()
                self.emit(Step(number, index + 1, len(steps)))
        seconds = now(self.device, self.clock) - timed_from if timed_from is not None else 0.0
        mean = float(self.group.sum(total)) / int(targets.sum())
        if not np.isfinite(mean):
            raise Diverged(f"The training loss of epoch {number}")
        return mean, (interactions, sequences, seconds)

    def _step(self, starts: Ints, lengths: Ints) -> Tensor:
        """Update the weights on rows (B,) and return the part of their mean loss that is this process's share."""
        share = self.group.share(self.objective.targets(lengths))
        own_starts, own_lengths = starts[share.rows], lengths[share.rows]
        batch = self.objective.batch(self.sequences, own_starts, own_lengths)
        times = times_of(self.model, self.sequences, own_starts, own_starts + own_lengths, self.protocol)
        batch = batch._replace(times=times).to(self.device)
        if self.loss.sampled and self.group.size > 1:  # drawn for the whole batch, and alike in all processes
            whole = self.objective.batch(self.sequences, starts, lengths).targets.to(self.device)
            drawn = self.loss.draw(whole, self.generator)
            negatives = drawn and drawn.of(share.positions)
        else:
            negatives = self.loss.draw(batch.targets, self.generator)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.table is None:
            loss = self._differentiate(batch, negatives, share.weight)
        else:
            with self.table.touched(batch, negatives) as touched:
                loss = self._differentiate(*touched, share.weight)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss * share.weight

    def _differentiate(self, batch: Batch, negatives: Negatives | None, weight: float) -> Tensor:
        """Give every parameter the gradient of the whole batch's loss, and return that of the share.

        Args:
            weight: of the share's loss in that of the whole batch.
        """
        states, items = self.objective.states(self.model, batch), self.model.item_weights()
        with full(self.device):
            loss = self.loss(states.to(items.dtype), items, self.model.item_bias(), batch.targets, negatives)
            loss.backward(torch.full_like(loss, weight))
        self.group.sum_gradients(list(self.model.parameters()))
        if self.training.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
        return loss


def derived_seed(*parts: int) -> int:
    """Return one 63-bit seed made of several numbers, far apart for neighbouring ones."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sample(examples: Examples, count: int) -> Examples:
    """Return so many of the examples, always the same ones for every model and seed; all of them if 0."""
    if not 0 < count < len(examples):
        return examples
    chosen = np.random.default_rng(count).choice(len(examples), count, replace=False)
    return examples.take(np.sort(chosen))


def _copy(model: SequenceModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
