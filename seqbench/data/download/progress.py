"""How far downloads are: bars on a terminal, lines elsewhere, nothing when quiet."""

import threading
import time
from pathlib import Path

from rich import filesize
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from seqbench import console
from seqbench.data.download.errors import Interrupted
from seqbench.show.progress import duration

SAY_EVERY = 30.0  # seconds between two lines of progress where there is no terminal


class Bars:
    """A bar per download. May be entered repeatedly."""

    def __init__(self) -> None:
        self.stopped = threading.Event()  # downloads end at the next block
        self._depth = 0
        self._lock = threading.Lock()
        self._lines: dict[int, tuple[str, int, int | None, float, float, int]] = {}
        self._shown: Progress | None = None
        if not console.is_quiet() and console.err.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._shown = Progress(*columns, console=console.err, transient=True)

    def __enter__(self) -> "Bars":
        with self._lock:
            self._depth += 1
            if self._depth == 1 and self._shown is not None:
                self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and self._shown is not None:
                self._shown.stop()

    def begin(self, target: Path, url: str, done: int, total: int | None) -> int:
        """Begin a file of `total` bytes, `done` of which are there; return the number that `advance` takes."""
        if self._shown is not None:
            for task in self._shown.tasks:
                if task.fields["target"] == target:  # another attempt
                    self._shown.update(task.id, total=total, completed=done)
                    return int(task.id)
            return int(self._shown.add_task(target.name, total=total, completed=done, target=target))
        size = f" ({filesize.decimal(total)})" if total else ""
        there = f", {filesize.decimal(done)} of which are there" if done else ""
        console.note(f"Fetching {url}{size}{there}")
        now = time.monotonic()
        with self._lock:
            number = len(self._lines)
            self._lines[number] = (target.name, done, total, now, now, done)
        return number

    def advance(self, bar: int, count: int) -> None:
        """Advance a bar by `count` bytes.

        Raises:
            Interrupted: downloads are to end.
        """
        if self.stopped.is_set():
            raise Interrupted
        if self._shown is not None:
            self._shown.advance(TaskID(bar), count)
            return
        name, done, total, began, said, start = self._lines[bar]
        done, now = done + count, time.monotonic()
        if now - said >= SAY_EVERY:
            rate = (done - start) / (now - began)
            left = f", {duration((total - done) / rate)} left" if total and rate else ""
            share = f"{done / total:.0%} of {filesize.decimal(total)}" if total else filesize.decimal(done)
            console.note(f"{name}: {share}, {filesize.decimal(int(rate))}/s{left}")
            said = now
        self._lines[bar] = (name, done, total, began, said, start)

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until downloads are to end.

        Raises:
            Interrupted: they are.
        """
        if self.stopped.wait(seconds):
            raise Interrupted
