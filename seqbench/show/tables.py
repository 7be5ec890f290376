"""Plain tables: columns with titles, and facts with names."""

from rich.table import Table
from rich.text import Text

from seqbench.show.text import printable


def columns(*titles: str) -> Table:
    """Make an empty table with these columns; names are never wrapped."""
    table = Table(box=None, pad_edge=False, caption_justify="left")
    for title in titles:
        table.add_column(title, no_wrap=title in ("Model", "Data set", "Setting", "Parameters"))
    return table


def facts(*rows: tuple[str, str]) -> Table:
    """Show names and what they stand for, without those that stand for nothing."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, Text(printable(value)))  # not markup: titles and paths may hold brackets
    return table


def yes_or_no(value: bool) -> str:
    """Write a truth value."""
    return "yes" if value else "no"
