"""Recommendations over HTTP from states in memory: an example, bound to this machine.

    pip install fastapi uvicorn
    python examples/serve.py ml-100k/lrurec

    POST /users/ann/events {"item": "50"}          the user takes an item
    GET  /users/ann/recommendations?k=10           what next?

A user's state is appended to, and the history never read again. The states of the most recent users are kept, and the
items of those models whose histories end (SASRec), which then start again from the newest half.
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI, HTTPException, Query

import seqbench
from seqbench.errors import UsageError
from seqbench.inference.states import States
from seqbench.inference.trained import TrainedModel

USERS = 100_000  # whose states are kept


@dataclass
class Service:
    """The states of the most recent users, at most `bound`."""

    model: TrainedModel
    bound: int = USERS
    states: OrderedDict[str, States] = field(default_factory=OrderedDict)
    newest: dict[str, list[str]] = field(default_factory=dict)  # items, of models whose histories end
    lock: Lock = field(default_factory=Lock)

    def take(self, user: str, item: str) -> None:
        """Append an item to a user's history."""
        with self.lock:
            before = self.states.get(user)
            if before is None:
                after = self.model.state([item])
            else:
                try:
                    after = self.model.append(before, item)
                except UsageError:
                    if not self._ends:
                        raise
                    kept = self.newest[user]
                    after = self.model.state([*kept[len(kept) // 2 :], item])
                    del kept[: len(kept) // 2]
            self._keep(user, after, [item])

    def begin(self, user: str, history: list[str]) -> None:
        """Start with a history, in one pass."""
        with self.lock:
            self.newest.pop(user, None)
            self._keep(user, self.model.state(history), history[-self.model.model.max_len :])

    def recommend(self, user: str, k: int) -> list[str]:
        """Return the k best items for a user whose state is kept."""
        with self.lock:
            return [each.item for each in self.model.recommend(self.states[user], k)[0]]

    @property
    def _ends(self) -> bool:
        return bool(getattr(self.model.model, "ends_at_max_len", False))

    def _keep(self, user: str, after: States, items: list[str]) -> None:
        self.states[user] = after
        self.states.move_to_end(user)
        if self._ends:
            self.newest.setdefault(user, []).extend(items)
        while len(self.states) > self.bound:
            oldest, _ = self.states.popitem(last=False)
            self.newest.pop(oldest, None)


def application(service: Service) -> FastAPI:
    """Return the application; its functions run in threads, one at a time in the service."""
    app = FastAPI(title="seqbench: recommendations from states")

    @app.post("/users/{user}/events", status_code=204)
    def take(user: str, item: Annotated[str, Body(embed=True, max_length=200)]) -> None:
        try:
            service.take(user, item)
        except UsageError as error:
            raise HTTPException(422, error.message) from error

    @app.get("/users/{user}/recommendations")
    def recommend(user: str, k: Annotated[int, Query(ge=1, le=1000)] = 10) -> list[str]:
        try:
            return service.recommend(user, k)
        except KeyError as error:
            raise HTTPException(404, f"nothing is known of user {user}") from error

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder, or DATASET/MODEL")
    parser.add_argument("--results", default="results")
    parser.add_argument("--users", type=int, default=USERS, help="whose states are kept")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    service = Service(seqbench.load(given.run, results=given.results), given.users)
    uvicorn.run(application(service), host="127.0.0.1", port=given.port)
