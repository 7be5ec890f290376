"""Reports as GitHub-flavoured Markdown: one heading per section, pipe tables, footnotes below."""

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from seqbench.reporting.document import Column, Report, Row, Table, TableCell

_SPECIAL = re.compile(r"([\\`*_{}\[\]#~|])")


def escape(text: str) -> str:
    """Write text so that Markdown and the HTML inside it print it as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def render_markdown(report: Report) -> str:
    """Write all sections; best in bold, second underlined."""
    lines: list[str] = []
    for section in report.sections:
        lines += [f"## {escape(section.title)}", ""]
        lines += [escape(" ".join(section.description())), ""]
        for warning in section.warnings:
            lines += [f"> **Warning:** {escape(warning)}", ""]
        for table in section.shown:
            lines += [f"### {escape(table.heading)}", ""]
            for block, rows in table.blocks():
                if block:
                    lines += [f"**{escape(block.capitalize())}**", ""]
                lines += [*_pipes(table, rows), ""]
            for index, footnote in enumerate(table.footnotes):
                lines += [f"<sup>{index + 1}</sup> {escape(footnote)}", ""]
            for remark in table.remarks:
                lines += [escape(remark), ""]
    return "\n".join([*lines, "Best in **bold**, second <u>underlined</u>."]) + "\n"


def _pipes(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    grid = [["Model", *(_header(table, column) for column in table.columns)]]
    for row in rows:
        label = escape(row.label) + _superscript(row.notes)
        grid.append([label, *(_cell(row.cells[column.key]) for column in table.columns)])
    widths = [max(3, *map(cell_len, column)) for column in zip(*grid, strict=True)]
    for number, cells in enumerate(grid):
        blanks = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        padded = [cells[0] + blanks[0], *(b + c for b, c in zip(blanks[1:], cells[1:], strict=True))]
        yield f"| {' | '.join(padded)} |"
        if number == 0:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            yield f"| {' | '.join(rules)} |"


def _header(table: Table, column: Column) -> str:
    if table.spanner:
        return column.title
    return escape(f"{column.header} ({column.unit})" if column.unit else column.header)


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    if cell.best:
        text = f"**{text}**"
    elif cell.second:
        text = f"<u>{text}</u>"
    spread = f" ± {cell.spread}" if cell.spread else ""
    return escape(cell.prefix) + text + cell.dagger + spread + _superscript(cell.notes)


def _superscript(notes: Sequence[int]) -> str:
    return f"<sup>{','.join(str(note + 1) for note in notes)}</sup>" if notes else ""
