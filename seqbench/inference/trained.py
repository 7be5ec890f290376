"""A trained model as its user sees it: raw ids in, recommendations out.

Shapes: B histories, D width, K best items.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, cast, overload

import numpy as np
import torch

from seqbench import console, tensor_file
from seqbench.data.sequences import Ints
from seqbench.errors import UsageError
from seqbench.inference.best import Histories, best_items, best_of_states
from seqbench.inference.compiled import Step, compile_step
from seqbench.inference.items import ItemIds
from seqbench.inference.states import States
from seqbench.models.base import IncrementalModel, Model, at_last, device_of, scored_by_table
from seqbench.models.times import Times
from seqbench.results import WEIGHTS, Record
from seqbench.results.weights import load_weights

Unknown = Literal["raise", "skip"]
History = Sequence[str]  # raw ids, oldest first
Seconds = Sequence[int]  # since 1970


class Recommendation(NamedTuple):
    """One item of a list, and its score."""

    item: str
    score: float


class TrainedModel:
    """The model of a finished run, with the raw ids of its items."""

    def __init__(self, model: Model, record: Record, folder: Path) -> None:
        self.model = model  # a torch.nn.Module, in evaluation mode
        self.record = record
        self.folder = folder

    @classmethod
    def load(cls, folder: Path, *, model: str | None = None, device: str = "cpu") -> "TrainedModel":
        """Read the model of a run's folder; see `seqbench.load`."""
        return cls(*load_weights(folder, model=model, device=device), folder)

    @cached_property
    def ids(self) -> ItemIds:
        """Return the raw ids of the items.

        Raises:
            SeqbenchError: the run has none, or they are damaged.
        """
        return ItemIds.read(self.folder, self.record)

    @cached_property
    def weights(self) -> str:
        """Return the digest of the weights, which states belong to."""
        return tensor_file.stored_digest(self.folder / WEIGHTS)

    @cached_property
    def step(self) -> Step:
        """Return how an item is appended: compiled where that is possible, which takes a second when first asked for.

        Raises:
            UsageError: the model keeps no state.
        """
        step = compile_step(self._incremental())
        if step.note:
            console.note(step.note)
        return step

    @overload
    def recommend(  # type: ignore[overload-overlap]
        self,
        given: History,
        k: int = 10,
        *,
        times: Seconds | None = None,
        at: int | None = None,
        exclude_seen: bool = True,
        exclude: Sequence[str] = (),
        unknown: Unknown = "raise",
    ) -> list[Recommendation]: ...

    @overload
    def recommend(
        self,
        given: Sequence[History] | States,
        k: int = 10,
        *,
        times: Sequence[Seconds] | None = None,
        at: int | Seconds | None = None,
        exclude_seen: bool = True,
        exclude: Sequence[str] = (),
        unknown: Unknown = "raise",
    ) -> list[list[Recommendation]]: ...

    def recommend(
        self,
        given: History | Sequence[History] | States,
        k: int = 10,
        *,
        times: Seconds | Sequence[Seconds] | None = None,
        at: int | Seconds | None = None,
        exclude_seen: bool = True,
        exclude: Sequence[str] = (),
        unknown: Unknown = "raise",
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """Return the k best items after a history, best first; of several histories, or states, a list each.

        The model sees the newest items of a history, as many as in training.

        Args:
            given: raw item ids, oldest first; a list of such; or what `state` and `append` return.
            k: how many; fewer where fewer items are left.
            times: when each item of a history was taken, in seconds since 1970; of several histories, such a list for
                each. Only models that use times look at it.
            at: when the recommendations are asked for, one time for all or one for each. Only models that use times
                look at it, and only if they were trained to (`--request-time`).
            exclude_seen: leave out the items of the history, all of them. States do not remember theirs.
            exclude: raw ids that are recommended to nobody, such as those out of stock.
            unknown: "raise" if an id has never been seen in training, or "skip" it. A history without any known item
                gets no recommendation.

        Raises:
            UsageError: an item is unknown, or a time that the model needs, or the states are of another model.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}.")
        banned = self._numbers([exclude], "skip")[0]
        if isinstance(given, States):
            return self._listed(*self._best_of(given, banned, k))
        single = _is_history(given)
        listed = [cast(History, given)] if single else list(given)
        rows = self._numbers(listed, unknown)
        left_out = [[*banned, *(row if exclude_seen else ())] for row in rows]
        histories = Histories.of(rows, *self._seconds(listed, times, at, single=single))
        found = best_items(self.model, histories, k, excluded=Histories.of(left_out))
        lists = self._listed(*found)
        return lists[0] if single else lists

    def state(
        self,
        given: History | Sequence[History],
        *,
        times: Seconds | Sequence[Seconds] | None = None,
        users: Sequence[str] | None = None,
        unknown: Unknown = "raise",
    ) -> States:
        """Return the state after a history, or the states after several, in one pass.

        Args:
            given: raw item ids, oldest first, of which the newest `max_len` count; or a list of such.
            times: as in `recommend`.
            users: whose they are, to find them again.
            unknown: as in `recommend`; a history needs one known item at least.

        Raises:
            UsageError: the model keeps no state, or an item is unknown.
        """
        model = self._incremental()
        single = _is_history(given)
        listed = [cast(History, given)] if single else list(given)
        rows = self._numbers(listed, unknown)
        if empty := [str(at) for at, row in enumerate(rows) if not row]:
            raise UsageError(f"History {empty[0]} has no item that the model knows.", hint="Leave it out.")
        if users is not None and len(users) != len(rows):
            raise UsageError(f"There are {len(users):,} users and {len(rows):,} histories.")
        histories = Histories.of(rows, *self._seconds(listed, times, None, single=single))
        with torch.inference_mode():
            items, lengths, *rest = histories.inputs(np.arange(len(rows)), model)
            before = [each.part(slice(None), slice(-1)) for each in rest]
            last = [each.part(torch.arange(len(rows)), lengths - 1) for each in rest]
            state = model.prefill(items[:, :-1], lengths - 1, *before)
            outputs, tensors = model.step(at_last(items, lengths), state, *last)
        return States(outputs, tensors, self.weights, None if users is None else tuple(users))

    def append(self, states: States, items: str | Sequence[str], times: int | Seconds | None = None) -> States:
        """Return the states after one more item of each history; go on from these, and not from those given.

        Args:
            items: a raw id for each history.
            times: when each was taken, or all, in seconds since 1970. Only models that use times look at it.

        Raises:
            UsageError: the states are of another model, an item or the time is unknown, or a history is as long as the
                model can take.
        """
        model = self._incremental()
        self._check(states)
        numbers = self._numbers([[items] if isinstance(items, str) else items], "raise")[0]
        if len(numbers) != len(states):
            raise UsageError(f"{len(numbers):,} items cannot be appended to {len(states):,} histories.")
        given: list[Times] = []
        if model.config.uses_times:
            self._check_times(times)
            moments = self._moments(0 if times is None else times, len(numbers))
            events = torch.from_numpy(moments).to(device_of(model))
            given.append(Times(events, events))
        try:
            with torch.inference_mode():
                appended = torch.tensor(numbers, device=device_of(model))
                outputs, tensors = self.step.call(appended, states.tensors, *given)
        except ValueError as error:
            raise UsageError(f"{error}.", hint="Start again with `state` and the newest items.") from error
        return States(outputs, tensors, states.weights, states.users)

    def load_states(self, path: str | Path) -> States:
        """Read states that were stored with `States.save`.

        Raises:
            UsageError: they are of another model, or the model keeps no state.
            DamagedFile: the content is not what was stored.
        """
        return States.load(path, self._incremental(), self.weights)

    def _best_of(self, states: States, banned: list[int], k: int) -> tuple["np.ndarray", "np.ndarray"]:
        self._check(states)
        model = scored_by_table(self._incremental())
        if model is None:
            raise UsageError(f"{self._name} scores in its own way.", hint="Recommend from histories.")
        excluded = torch.tensor([banned], dtype=torch.int64, device=states.outputs.device).expand(len(states), -1)
        with torch.inference_mode():
            scores, ids = best_of_states(model, states.outputs, excluded, k)
        return ids.cpu().numpy(), scores.cpu().numpy()

    def _listed(self, ids: "np.ndarray", scores: "np.ndarray") -> list[list[Recommendation]]:
        raw = self.ids.raw
        return [
            [Recommendation(raw[item - 1], score) for item, score in zip(*row, strict=True) if item]
            for row in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    def _numbers(self, rows: Sequence[History], unknown: Unknown) -> list[list[int]]:
        """Return the numbers of raw ids, of each row the known ones."""
        found = [self.ids.find(row) for row in rows]
        missing = [each for _, others in found for each in others]
        if missing and unknown == "raise":
            raise self.ids.unknown(missing)
        return [numbers for numbers, _ in found]

    def _seconds(
        self,
        given: Sequence[History],
        times: Seconds | Sequence[Seconds] | None,
        at: int | Seconds | None,
        *,
        single: bool,
    ) -> tuple[list[list[int]] | None, Ints | None]:
        """Return the times of the known items of histories, and when they are asked for, as far as the model may know.

        Raises:
            UsageError: something that the model needs is not given, or not for each item.
        """
        if not self.model.config.uses_times:
            return None, None
        requests = None
        if self.record.definition.protocol.request_time:
            if at is None:
                raise UsageError(
                    f"{self._name} was trained to know when it is asked.", hint="Pass at=, in seconds since 1970."
                )
            requests = self._moments(at, len(given))
        self._check_times(times)
        if times is None:
            return None, requests
        rows = cast(Sequence[Seconds], [times] if single else times)
        if [*map(len, rows)] != [*map(len, given)]:
            raise UsageError("There must be a time for each item of each history.")
        known = self.ids.numbers
        return [
            [int(second) for item, second in zip(history, row, strict=True) if item in known]
            for history, row in zip(given, rows, strict=True)
        ], requests

    def _check_times(self, times: object) -> None:
        """Raise UsageError if no times are given, unless the data set had none either."""
        if times is None and self.record.dataset.get("times", True):
            raise UsageError(f"{self._name} uses times.", hint="Pass times=, in seconds since 1970.")

    def _moments(self, given: int | Seconds, count: int) -> Ints:
        """Return one time for each of so many histories, (B,)."""
        found = np.asarray(given, dtype=np.int64)
        if found.ndim and found.shape != (count,):
            raise UsageError(f"{found.size:,} times do not fit {count:,} histories.")
        return np.broadcast_to(found, (count,)).copy()

    def _incremental(self) -> IncrementalModel:
        if self.model.config.uses_times and self.record.definition.protocol.request_time:
            raise UsageError(
                f"{self._name} keeps no state: every request, at its own time, would change it.",
                hint="Recommend from histories.",
            )
        if not isinstance(self.model, IncrementalModel) or not self.model.config.incremental:
            raise UsageError(
                f"{self._name} keeps no state: it reads the whole history every time.",
                hint="Recommend from histories.",
            )
        return self.model

    def _check(self, states: States) -> None:
        if states.weights != self.weights:
            raise UsageError("These states are of another model, or of other weights.")

    @property
    def _name(self) -> str:
        return self.record.definition.model


def _is_history(given: object) -> bool:
    """Return whether a sequence is one history, rather than a list of such."""
    return isinstance(given, Sequence) and len(given) > 0 and all(isinstance(each, str) for each in given)
