"""Results on stdout, everything else on stderr. Rich honours NO_COLOR, FORCE_COLOR and TERM=dumb."""

from rich.console import Console

from seqbench.show.text import printable

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def quiet(enabled: bool) -> None:
    """Silence progress and notes; warnings and errors stay."""
    global _quiet
    _quiet = enabled


def is_quiet() -> bool:
    """Return whether progress and notes are silenced."""
    return _quiet


def note(message: str) -> None:
    """Say what is going on."""
    if not _quiet:
        err.print(printable(message), markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Say what the user should know before trusting a figure."""
    err.print("[yellow]Warning:[/] ", end="")
    err.print(printable(message), markup=False, soft_wrap=True)


def fail(message: str, hint: str | None = None) -> None:
    """Say what went wrong and what to do next."""
    err.print("[bold red]Error:[/] ", end="")
    err.print(printable(message), markup=False, soft_wrap=True)
    if hint:
        err.print(printable(hint), markup=False, soft_wrap=True)


_quiet = False
