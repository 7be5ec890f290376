"""Telling executors in other threads to end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stop:
    """A request to end what is running, which those who can end it are told at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[Callable[[], None]] = []
        self.requested = False

    def request(self) -> None:
        """Ask everybody to end."""
        with self._lock:
            self.requested = True
            ends = list(self._ends)
        for end in ends:
            end()

    @contextmanager
    def calling(self, end: Callable[[], None]) -> Iterator[None]:
        """Have `end` called if the request comes before the block is done, or has come already."""
        with self._lock:
            self._ends.append(end)
            late = self.requested
        if late:
            end()
        try:
            yield
        finally:
            with self._lock:
                self._ends.remove(end)
