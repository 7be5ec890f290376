"""Reports for the screen. Nothing depends on colour: best is bold, second is underlined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from seqbench.reporting.document import Column, Report, Row, Section, Table, TableCell
from seqbench.show.numbers import split_at_point

GAP = 2  # blanks between columns
LABEL_WIDTH = 24  # longer labels are wrapped, at blanks
SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
BEST, SECOND = "*", "+"  # where neither bold nor underline can be shown


def render_terminal(report: Report) -> RenderableType:
    """Show a title, a description and tables for every section. Tables adapt to the width they are printed at."""
    blocks: list[RenderableType] = []
    for section in report.sections:
        blocks += [Text(section.title, style="bold"), *_description(section)]
        for table in section.shown:
            blocks += [Text(), Text(table.heading, style="italic"), Fitted(table)]
        blocks.append(Text())
    return Group(*blocks, Legend())


class Legend:
    """What the marks mean, in the marks that this terminal shows."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield one line."""
        if console.color_system is None:
            yield Text(f"{BEST} best, {SECOND} second; equal figures share a mark.")
        else:
            yield Text.assemble(("best", "bold"), ", ", ("second", "underline"), "; equal figures share a mark.")


@dataclass
class Fitted:
    """A table that is printed in several pieces when its columns do not fit side by side."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the pieces, then the footnotes."""
        for index, (block, rows) in enumerate(self.table.blocks()):
            if index:
                yield Text()
            if block:
                yield Text(block.capitalize())
            yield from _block(self.table, rows, console, options.max_width)
        for index, footnote in enumerate(self.table.footnotes):
            note = RichTable.grid(padding=(0, 1, 0, 0))
            note.add_row(_superscript([index]), Text(footnote))
            yield note
        for remark in self.table.remarks:
            yield Text(remark)


def _description(section: Section) -> Iterator[RenderableType]:
    for words in section.description():
        yield Text(words)
    for warning in section.warnings:
        yield Text.assemble(("Warning: ", "bold"), warning)


def _block(table: Table, rows: Sequence[Row], console: Console, width: int) -> Iterator[RenderableType]:
    """Yield rows that compete with each other, in as many pieces as their columns need.

    Not rich's tables, which take most of the time of a large report.
    """
    # Without escape codes bold and underline would be lost: a pipe gets characters instead.
    plain = console.color_system is None
    columns = [
        [Text(_header(table, column)), *_aligned([row.cells[column.key] for row in rows], plain)]
        for column in table.columns
    ]
    widths = [max(cell_len(line) for text in column for line in text.plain.split("\n")) for column in columns]
    labels = [row.label + _superscript(row.notes) for row in rows]
    longest_word = max(cell_len(word) for label in ["Model", *labels] for word in label.split())
    roomy = max(longest_word, min(max(map(cell_len, labels)), LABEL_WIDTH))
    # Wrapped labels are better than a table in more pieces, and pieces of about equal width are better yet.
    fewest = len(_pieces(widths, width - longest_word))
    label_width = roomy if len(_pieces(widths, width - roomy)) == fewest else longest_word
    room = width - label_width
    while room > 0 and len(_pieces(widths, room - 1)) == fewest:
        room -= 1

    names = [Text(label).wrap(console, label_width) for label in labels]
    for number_of_piece, piece in enumerate(_pieces(widths, room)):
        if number_of_piece:
            yield Text()
        heads = [_header(table, table.columns[index]).split("\n") for index in piece]
        height = max(map(len, heads))
        lines = []
        for line in range(-height, 0):  # the last lines stand below each other
            parts = ["Model" if line == -1 else ""] + [head[line] if -line <= len(head) else "" for head in heads]
            lines.append(_line(list(map(Text, parts)), [label_width, *(widths[index] for index in piece)]))
            lines[-1].stylize("bold")
        lines.append(Text("─" * (label_width + sum(GAP + widths[index] for index in piece))))
        for position, (name, row) in enumerate(zip(names, rows, strict=True), start=1):
            if position > 1 and rows[position - 2].ranked and not row.ranked:
                lines.append(Text())
            first, *others = name
            cells = [columns[index][position] for index in piece]
            lines += [_line([first, *cells], [label_width, *(widths[index] for index in piece)]), *others]
        yield Text("\n", no_wrap=True, overflow="ignore").join(lines)


def _line(parts: Sequence[Text], widths: Sequence[int]) -> Text:
    """Put texts side by side: the first at the left of its column, the others at the right."""
    line = parts[0].copy()
    line.pad_right(widths[0] - cell_len(line.plain))
    for part, width in zip(parts[1:], widths[1:], strict=True):
        line.append(" " * (GAP + width - cell_len(part.plain)))
        line.append_text(part)
    return line


def _pieces(widths: Sequence[int], room: int) -> list[list[int]]:
    """Indices of columns, in as few parts as possible that are each at most `room` wide."""
    pieces: list[list[int]] = []
    used = 0
    for index, width in enumerate(widths):
        if not pieces or used + GAP + width > room:
            pieces.append([])
            used = 0
        pieces[-1].append(index)
        used += GAP + width
    return pieces


def _header(table: Table, column: Column) -> str:
    if table.spanner:
        return column.title
    return f"{column.header}\n{column.unit}" if column.unit else column.header


def _aligned(cells: Sequence[TableCell], plain: bool) -> list[Text]:
    """One text per cell; figures are equally wide, with their decimal points below each other."""
    figures = [cell for cell in cells if cell.n]
    tails = [len(split_at_point(cell.text)[1] + _mark(cell, plain)) for cell in figures]
    spreads = [len(cell.spread) for cell in figures if cell.spread]
    texts = []
    for cell in cells:
        mark = _mark(cell, plain)
        style = "bold" if cell.best else "underline" if cell.second else ""
        text = Text.assemble(cell.prefix, (cell.text, style), mark)
        if cell.n:
            text.append(" " * (max(tails) - len(split_at_point(cell.text)[1] + mark)))
            if spreads:
                spread = f" ± {cell.spread}" if cell.spread else ""
                text.append(spread.ljust(len(" ± ") + max(spreads)))
        texts.append(text)
    return texts


def _mark(cell: TableCell, plain: bool) -> str:
    best = BEST if cell.best else SECOND if cell.second else ""
    return cell.dagger + (best if plain else "") + _superscript(cell.notes)


def _superscript(notes: Sequence[int]) -> str:
    return ",".join(str(note + 1) for note in notes).translate(SUPERSCRIPTS)
