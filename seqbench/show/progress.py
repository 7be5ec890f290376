"""What a running cell shows: three live lines on a terminal, a plain line per epoch elsewhere, nothing when quiet."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich import filesize
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from seqbench import console
from seqbench.events import EpochEnded, Event, Finished, MemoryNeeded, Paused, Phase, Pruned, Resumed, Step
from seqbench.execution.orders import Order

LARGE = 1 << 30  # bytes of training from which on they are said beforehand


class RunProgress:
    """Shows the cells that are running, below each other. Use as a context manager around the whole run."""

    def __init__(self) -> None:
        self.on_terminal = console.err.is_terminal and not console.err.is_dumb_terminal and not console.is_quiet()
        self._running: list[CellProgress] = []
        self._live = Live(get_renderable=self._render, console=console.err, transient=True, refresh_per_second=5)

    def __enter__(self) -> "RunProgress":
        if self.on_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_terminal:
            self._live.stop()

    @contextmanager
    def showing(self, cell: "CellProgress") -> Iterator[None]:
        """Show a cell among those that are running until the block is done."""
        self._running = [*self._running, cell]
        try:
            yield
        finally:
            self._running = [each for each in self._running if each is not cell]

    def _render(self) -> Group:
        return Group(*(part for cell in self._running for part in (cell.bar, cell.details)))


class CellProgress:
    """Turns the events of a cell into words: three live lines of a run, or plain ones where there is no terminal."""

    def __init__(self, label: str, order: Order, run: RunProgress) -> None:
        self.run = run
        self.label = label
        self.again = order.again
        self.judged_by = "test" if order.attempt is None else "validation"
        self.selection = order.definition.protocol.selection
        self.epochs = order.definition.training["epochs"] if order.definition.training else 0
        if self.again is not None:
            self.epochs = min(self.epochs, self.again.epochs)
        self.epoch_seconds: list[float] = []
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self.task = self.bar.add_task(label, total=None, words="starting")
        self.details = Text(style="dim")

    def show(self, event: Event) -> None:
        """Show what an event says."""
        match event:
            case MemoryNeeded():
                if event.held >= LARGE:
                    held, free = filesize.decimal(event.held), filesize.decimal(event.free)
                    self._say(f"training holds {held} of moments, gradients and best weights; {free} are free")
            case Resumed():
                self._say(f"resumed after epoch {event.epoch}")
            case Step():
                self._advance(event.epoch, event.done / event.total)
            case EpochEnded():
                self._advance(event.epoch, 1.0)
                quality, cost = self._epoch_words(event)
                self.details.plain = f"  {quality}\n  {cost}"
                if not self.run.on_terminal and self.again is None:
                    self._say(f"epoch {event.epoch}/{self.epochs}: {quality}, {cost}")
            case Phase():
                if not event.total:
                    self.details.plain = ""
                self.bar.tasks[0].total = event.total or None  # which `update` would take for no change
                self.bar.update(self.task, completed=event.done, words=event.name)
            case Paused():
                self._say(f"left after epoch {event.epoch}: there is no time for another one")
            case Pruned():
                self._say(
                    f"pruned after epoch {event.epoch}: {self.selection} {event.best:.4f} is below the median "
                    f"{event.median:.4f} of earlier trials"
                )
            case Finished() if self.again is not None:
                self._say(f"{' and '.join(self.again.parts)} measured again")
            case Finished():
                value = event.accuracy[self.selection]
                self._say(f"{self.judged_by} {self.selection} {value:.4f} in {duration(event.seconds)}")

    def _advance(self, epoch: int, share: float) -> None:
        done = (epoch - 1 + share) / self.epochs
        self.bar.update(self.task, total=1.0, completed=done, words=f"epoch {epoch} of at most {self.epochs}")

    def _epoch_words(self, event: EpochEnded) -> tuple[str, str]:
        """Return what the epoch gave, and what it took."""
        self.epoch_seconds.append(event.train_seconds + event.evaluate_seconds)
        left = (self.epochs - event.epoch) * sum(self.epoch_seconds) / len(self.epoch_seconds)
        best = f"best {event.best:.4f} in epoch {event.best_epoch}"
        validation = "not validated" if event.validation is None else f"{event.validation:.4f}"
        quality = f"loss {event.loss:.4f}, validation {self.selection} {validation} ({best})"
        cost = f"at most {duration(left)} left"
        rate = event.interactions_per_second
        return quality, f"{rate:,.0f} interactions/s, {cost}" if rate else cost

    def _say(self, words: str) -> None:
        console.note(f"{self.label}: {words}")


def duration(seconds: float) -> str:
    """Return seconds in the units that people use: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
