"""How far a count has come: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from seqbench import console
from seqbench.show.progress import duration

SAY_EVERY = 20.0  # seconds between two lines where there is no terminal


@contextmanager
def counting(done: str, what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told (so many, of how many), and shows it as "`done` 5 of 10 `what`"."""
    if console.err.is_terminal and not console.is_quiet():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console.err, transient=True) as shown:
            task = shown.add_task(done, total=None)
            yield lambda count, total: shown.update(task, completed=count, total=total)
        return
    began = said = time.monotonic()

    def say(count: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if count and now - said >= SAY_EVERY:
            said = now
            left = duration((now - began) / count * (total - count))
            console.note(f"{done} {count:,} of {total:,} {what}, {left} left")

    yield say
