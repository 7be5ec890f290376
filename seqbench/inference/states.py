"""States of many users: what an incremental model keeps of their histories, joined, picked and stored.

Shapes: B histories, D width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from seqbench import tensor_file
from seqbench.errors import UsageError
from seqbench.models.base import IncrementalModel, State
from seqbench.typed import build

HINT = "Make the states from the histories again."
OUTPUTS, USERS, PART = "outputs", "users", "state"


@dataclass(frozen=True)
class States:
    """What a model keeps of B histories, and what it says after each."""

    outputs: Tensor  # (B, D), what items are scored with
    tensors: State  # (B, …) each
    weights: str  # digest of the weights that they are of; with others they mean nothing
    users: tuple[str, ...] | None = None  # (B,) whose they are, if that was said

    def __len__(self) -> int:
        return len(self.outputs)

    def take(self, rows: Sequence[int] | Sequence[str]) -> "States":
        """Return the states at these places, or of these users, in their order.

        Raises:
            UsageError: there is no such place or user.
        """
        known = {user: row for row, user in enumerate(self.users or ())}
        try:
            places = [known[each] if isinstance(each, str) else range(len(self))[each] for each in rows]
        except (KeyError, IndexError) as error:
            raise UsageError(f"There is no state {error.args[0]} among these {len(self):,}.") from error
        index = torch.tensor(places, dtype=torch.int64, device=self.outputs.device)
        return replace(
            self,
            outputs=self.outputs[index],
            tensors=tuple(each[index] for each in self.tensors),
            users=None if self.users is None else tuple(self.users[place] for place in places),
        )

    @classmethod
    def join(cls, parts: Sequence["States"]) -> "States":
        """Return the states of several, one after the other.

        Raises:
            UsageError: there are none, or they are of different weights.
        """
        if len({each.weights for each in parts}) != 1:
            raise UsageError("States can be joined if they are of one and the same model.")
        users = tuple(user for each in parts for user in each.users or ())
        outputs = torch.cat([each.outputs for each in parts])
        return cls(
            outputs,
            tuple(torch.cat(each) for each in zip(*(each.tensors for each in parts), strict=True)),
            parts[0].weights,
            users if len(users) == len(outputs) else None,
        )

    def save(self, path: str | Path) -> None:
        """Store them as safetensors.

        Raises:
            StorageError: the disk is full or the folder cannot be written to.
        """
        tensors = {OUTPUTS: self.outputs} | {f"{PART}.{at}": each for at, each in enumerate(self.tensors)}
        if self.users is not None:
            tensors[USERS] = torch.frombuffer(bytearray(json.dumps(self.users).encode()), dtype=torch.uint8)
        tensor_file.write(Path(path), tensors, json.dumps({"weights": self.weights}))

    @classmethod
    def load(cls, path: str | Path, model: IncrementalModel, weights: str) -> "States":
        """Read what `save` stored, for the model with these weights.

        Raises:
            UsageError: the states are of other weights.
            DamagedFile: the content is not what was stored, or not states of this model.
        """
        path = Path(path)
        expected = model.initial_state(1)
        tensors, text = tensor_file.read(path, expected[0].device, HINT)
        try:
            stored = build(dict[str, str], json.loads(text), "states")
            if stored.get("weights") != weights:
                raise UsageError(f"{path} holds states of another model, or of other weights.", hint=HINT)
            named = tensors.pop(USERS, None)
            users = None if named is None else build(tuple[str, ...], json.loads(bytes(named.tolist())), "users")
            names = [OUTPUTS, *(f"{PART}.{at}" for at in range(len(expected)))]
            if sorted(tensors) != sorted(names):
                raise ValueError("it has other tensors than a state")
            outputs, *parts = (tensors[name] for name in names)
            table = model.item_weights()
            if outputs.shape[1:] != table.shape[1:] or outputs.dtype != table.dtype:
                raise ValueError("its outputs are not those of the model")
            if users is not None and len(users) != len(outputs):
                raise ValueError("it does not have a user for each history")
            model.check_state(tuple(parts), len(outputs))
        except (ValueError, RecursionError) as error:
            raise tensor_file.damaged(path, error, HINT) from error
        return cls(outputs, tuple(parts), weights, users)
