"""Reports of records made by hand."""

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType

from seqbench.reporting.document import Report
from seqbench.reporting.runs import StoredRun
from seqbench.reporting.tables import build_report
from seqbench.results import Record


def report_of(records: Sequence[Record], *arguments: Any, **options: Any) -> Report:
    """A report of records without ranks: of the means that they keep."""
    return build_report([StoredRun(record) for record in records], *arguments, **options)


def printed(renderable: RenderableType, width: int, color_system: Any = None) -> str:
    """What a terminal of this width shows."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=color_system is not None, color_system=color_system)
    console.print(renderable)
    return stream.getvalue()
