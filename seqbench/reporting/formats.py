"""The forms that a report can be written in. Adding one is a file with a function, and its line here.

Importing this module costs nothing: a format is loaded when it is used.
"""

from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING

from seqbench.registry import Registry

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seqbench.reporting.document import Report

FILE_WIDTH = 120  # characters of a line, of what rich lays out for a file

# A format returns text, or something that rich lays out for the width at which it is shown.
Format = Callable[["Report"], "str | RenderableType"]

FORMATS: Registry[Format] = Registry(
    "Format",
    {
        "terminal": "seqbench.reporting.terminal:render_terminal",
        "latex": "seqbench.reporting.latex:render_latex",
        "markdown": "seqbench.reporting.markdown:render_markdown",
        "csv": "seqbench.reporting.csv_json:render_csv",
        "html": "seqbench.reporting.html:render_html",
        "json": "seqbench.reporting.csv_json:render_json",
    },
    "seqbench report --help",
)


def as_text(rendered: "str | RenderableType") -> str:
    """Return what a format made as text for a file, without colours."""
    if isinstance(rendered, str):
        return rendered
    from rich.console import Console

    stream = StringIO()
    # Of itself rich displays in a notebook instead of writing, and follows FORCE_COLOR, which notebooks set.
    console = Console(file=stream, width=FILE_WIDTH, highlight=False, force_jupyter=False, force_terminal=False)
    console.print(rendered)
    return stream.getvalue()
