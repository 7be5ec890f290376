"""LaTeX tables: booktabs, no vertical lines, models as rows, data sets as column groups.

A caption says in a sentence what the table shows; what a reader needs besides stands under the table.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from seqbench.reporting.document import FAILED, Column, Report, Row, Section, Table, TableCell
from seqbench.show.numbers import split_at_point

PACKAGES = ("booktabs", "graphicx")
COLUMNS_PER_TABLE = 16  # more data sets than fit go into a further table
COLUMNS_WITH_SPREAD = 6  # wider tables have no room for standard deviations
ROWS_PER_TABLE = 24  # a float that is higher than a page is never printed
WIDE = 48  # characters of a row; about a column of a two-column paper

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_"},
    "[": "{[}",  # at the start of a row they would belong to the \\ before it
    "*": "{*}",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "µ": r"$\mu$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
}


def escape(text: str) -> str:
    """Write text so that LaTeX prints it, whatever is in it.

    Accented Latin letters stay, other characters that pdflatex does not know lose their accents or become
    question marks: a table that compiles is worth more than an exact exotic name.
    """
    return "".join(_escaped(character) for character in unicodedata.normalize("NFC", " ".join(text.split())))


def render_latex(report: Report) -> str:
    """Write all tables, each in a float, below a comment that says how they were made and what they need."""
    floats: list[_Float] = []
    for sections in _comparable(report.sections):
        floats.append(_Float(sections, [_accuracy(section) for section in sections], report.models))
    for section in report.sections:
        for table in section.shown:
            if table.kind != "accuracy":
                floats += [_Float([section], [part], report.models) for part in _parts(table)]
    parts = [_comment(report)]
    names: list[str] = []
    for each in floats:
        names.append(each.name)
        repeated = names.count(each.name)
        parts.append(each.render(each.name if repeated == 1 else f"{each.name}-{repeated}"))
    return "\n".join(parts)


def _accuracy(section: Section) -> Table:
    return next(table for table in section.shown if table.kind == "accuracy")


def _parts(table: Table) -> Iterator[Table]:
    """Split a table between its blocks where it has more rows than a page."""
    part: list[Row] = []
    for _, rows in table.blocks():
        if part and len(part) + len(rows) > ROWS_PER_TABLE:
            yield replace(table, rows=part)
            part = []
        part = part + rows
    yield replace(table, rows=part)


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if " " <= character <= "~":
        return character
    if "À" <= character <= "ÿ" and character not in "ÐðÞþ÷":
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(_ESCAPES.get(part, part) for part in plain if part.isprintable()) or "?"


def _comment(report: Report) -> str:
    days = sorted({report.first[:10], report.last[:10]})
    lines = [
        f"Made by: seqbench report --latex --metric {','.join(report.metrics)}",
        f"Commit: {', '.join(report.commits) or 'unknown'}",
        f"Measured: {' to '.join(days)}",
        *(f"Software: {words}" for words in sorted({w for s in report.sections for w in s.software})),
        "Preamble:",
        *(rf"  \usepackage{{{package}}}" for package in PACKAGES),
    ]
    return "".join(f"% {' '.join(line.split()) if line[0] != ' ' else line}\n" for line in lines)


def _comparable(sections: Sequence[Section]) -> Iterator[list[Section]]:
    """Group sections that share protocol, seeds and settings, and so a table, as many as fit.

    The maximum length belongs to a data set: it may differ, and is said.
    """
    groups: dict[object, list[Section]] = {}
    for section in sections:
        if any(table.kind == "accuracy" for table in section.shown):
            key = (replace(section.protocol, max_len=0), tuple(section.seeds), section.common)
            groups.setdefault(key, []).append(section)
    for group in groups.values():
        each = max(1, COLUMNS_PER_TABLE // len(_accuracy(group[0]).columns))
        for start in range(0, len(group), each):
            yield group[start : start + each]


class _Float:
    """One printed table: one data set, or several that share a protocol side by side."""

    def __init__(self, sections: Sequence[Section], tables: Sequence[Table], models: Sequence[str]) -> None:
        self.sections, self.tables = sections, tables  # one table per section
        self.slots = [(table, column) for table in tables for column in table.columns]
        self.blocks = _merged(tables, models)
        self.notes: dict[str, list[str]] = {}  # footnote → the data sets that it is about
        self.spread = len(self.slots) <= COLUMNS_WITH_SPREAD

    @property
    def name(self) -> str:
        words = " ".join([self.tables[0].kind, *(section.dataset for section in self.sections)])
        return "tab:" + re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")

    def render(self, label: str) -> str:
        columns = "".join(r"r@{\,}l" if self._span(*slot) == 2 else "r" for slot in self.slots)
        environment = "table*" if self._characters() > WIDE else "table"
        lines = [
            rf"\begin{{{environment}}}[tp]",
            r"\centering",
            r"\setlength{\belowcaptionskip}{6pt}",  # article has none; classes that have their own keep it
            rf"\caption{{{escape(self._caption())}}}",
            rf"\label{{{label}}}",
            r"\small",
            r"\setlength{\tabcolsep}{4pt}",
            r"\sbox0{%",
            rf"\begin{{tabular}}{{@{{}}l{columns}@{{}}}}",
            r"\toprule",
            *self._head(),
            *self._body(),
            r"\bottomrule",
            r"\end{tabular}}%",
            # What is wider than the line is shrunk to it.
            r"\ifdim\wd0>\linewidth\sbox0{\resizebox{\linewidth}{!}{\usebox0}}\fi",
            r"\usebox0",
            *self._footer(),
            rf"\end{{{environment}}}",
        ]
        return "\n".join(lines) + "\n"

    def _caption(self) -> str:
        section, table = self.sections[0], self.tables[0]
        data = _listed([each.title for each in self.sections])
        cells = [cell for each in self.tables for row in each.rows for cell in row.cells.values()]
        marks = " Best in bold, second underlined" if any(cell.best for cell in cells) else ""
        if table.kind == "latency":
            marks = f"{marks}, for each batch size and mode." if marks else ""
            return f"Latency ({table.statistic}) on {data}, {table.hardware}.{marks}"
        where = table.hardware or f"protocol {section.protocol.name}, {section.protocol.split} split"
        seeds = len(section.seeds)
        averaged = f" Mean{' ± sd' if self.spread else ''} over {seeds} seeds." if seeds > 1 and table.averaged else ""
        return f"{table.title} on {data}, {where}.{averaged}{marks and f'{marks}.'}"

    def _details(self) -> Iterator[str]:
        """Say what the figures are of: data, protocol, settings, seeds."""
        section = self.sections[0]
        yield "; ".join(f"{each.title}: {each.data_words()}" for each in self.sections) + "."
        if self.tables[0].kind == "latency":
            return
        words, _, _ = section.protocol.words().rpartition(", maximum length")
        lengths = {each.title: each.protocol.max_len for each in self.sections}
        if len(set(lengths.values())) > 1:
            length = ", ".join(f"{number} on {title}" for title, number in lengths.items())
        else:
            length = str(section.protocol.max_len)
        yield f"{words}, maximum length {length}."
        if self.tables[0].averaged:
            yield from (f"{words}." for words in (section.common_words(), section.seed_words()) if words)
        cells = [cell for table in self.tables for row in table.rows for cell in row.cells.values()]
        spreads = [(cell.std, cell.spread) for cell in cells if cell.std is not None]
        if spreads and not self.spread:
            yield f"Standard deviations over seeds are at most {max(spreads)[1]}."

    def _head(self) -> Iterator[str]:
        titles, rules, first = [], "", 2
        for section, table in zip(self.sections, self.tables, strict=True):
            span = sum(self._span(table, column) for column in table.columns)
            titles.append(table.spanner or (section.title if len(self.sections) > 1 else ""))
            titles[-1] = rf"\multicolumn{{{span}}}{{c}}{{{escape(titles[-1])}}}" if titles[-1] else ""
            rules += rf"\cmidrule(lr){{{first}-{first + span - 1}}}"
            first += span
        if any(titles):
            yield from (_line(["", *titles]), rules)
        headers = [column.title if table.spanner else column.header for table, column in self.slots]
        yield _line(["Model", *map(self._centred, range(len(headers)), headers)])
        units = [f"({column.unit})" if column.unit else "" for _, column in self.slots]
        if any(units):
            yield _line(["", *map(self._centred, range(len(units)), units)])

    def _centred(self, slot: int, text: str) -> str:
        wide = self._span(*self.slots[slot]) == 2
        return rf"\multicolumn{{2}}{{c}}{{{escape(text)}}}" if wide else escape(text)

    def _body(self) -> Iterator[str]:
        for block, lines in self.blocks:
            yield r"\midrule"
            if block:
                span = 1 + sum(self._span(*slot) for slot in self.slots)
                yield rf"\multicolumn{{{span}}}{{@{{}}l@{{}}}}{{\emph{{{escape(block.capitalize())}}}}} \\"
            ranked = False  # of the row before
            for label, rows in lines:
                reference = not all(row.ranked for row in rows if row)
                if ranked and reference:
                    yield r"\midrule"
                ranked = not reference
                marks = [m for index, row in enumerate(rows) if row for m in self._mark(index, row.notes)]
                cells = [escape(label) + _superscript(marks)]
                for index, row in enumerate(rows):
                    cells += self._cells(index, row, [each[index] for _, each in lines], blank=reference)
                yield _line(cells)

    def _cells(self, index: int, row: Row | None, rows: Sequence[Row | None], blank: bool) -> Iterator[str]:
        """The cells of one data set; `rows` are those that decimal points are aligned with."""
        table = self.tables[index]
        if row is None:
            span = sum(self._span(table, column) for column in table.columns)
            absent = "" if blank else FAILED + _superscript(self._mark(index, ["not run"]))
            yield rf"\multicolumn{{{span}}}{{c}}{{{absent}}}"
            return
        for column in table.columns:
            cell = row.cells[column.key]
            paired = self._span(table, column) == 2
            if not cell.n:
                mark = _superscript(self._mark(index, cell.notes))
                text = escape(cell.text)
                yield rf"\multicolumn{{2}}{{c}}{{{text}{mark}}}" if paired else text + _overhanging(mark)
                continue
            fractions = [_fraction(each.cells[column.key]) for each in rows if each]
            padding = max(fractions, key=len)[len(_fraction(cell)) :]
            mean = escape(cell.prefix) + _emphasised(cell) + (rf"\phantom{{{padding}}}" if padding else "")
            if any(each.cells[column.key].dagger for each in rows if each):
                mean += _dagger(cell.dagger)
            spread = rf"{{\scriptsize$\pm$\,{cell.spread}}}" if cell.spread else ""
            yield f"{mean} & {spread}" if paired else mean

    def _mark(self, index: int, notes: Sequence[int | str]) -> list[int]:
        """Numbers of footnotes, new ones added at the end."""
        marks = []
        for note in notes:
            text = note if isinstance(note, str) else self.tables[index].footnotes[note]
            about = self.notes.setdefault(text, [])
            if self.sections[index].title not in about:
                about.append(self.sections[index].title)
            marks.append(list(self.notes).index(text))
        return marks

    def _footer(self) -> Iterator[str]:
        several = len(self.sections) > 1
        lines = [escape(" ".join(self._details()))]
        lines += [
            _superscript([number]) + "~" + escape(f"{', '.join(sorted(about))}: {text}" if several else text)
            for number, (text, about) in enumerate(self.notes.items())
        ]
        remarks: dict[str, list[str]] = {}
        for section, table in zip(self.sections, self.tables, strict=True):
            for remark in table.remarks:
                remarks.setdefault(remark, []).append(section.title)
        for remark, about in remarks.items():
            everywhere = len(about) == len(self.sections)
            lines.append(escape(remark if everywhere else f"{', '.join(sorted(about))}: {remark}"))
        for section in self.sections:
            lines += [escape(f"Warning, {section.title}: {warning}") for warning in section.warnings]
        # As wide as the table, but not too narrow to read.
        yield r"\par\smallskip"
        yield r"\dimen0=\wd0 \ifdim\dimen0<0.7\linewidth\dimen0=0.7\linewidth\fi"
        yield r"\parbox{\dimen0}{\footnotesize\raggedright"
        yield "\\par\n".join(lines) + "}"

    def _span(self, table: Table, column: Column) -> int:
        """Count printed columns: standard deviations get one of their own, which keeps the means aligned."""
        return 2 if self.spread and any(row.cells[column.key].spread for row in table.rows) else 1

    def _characters(self) -> int:
        """About how wide the table is, in characters."""
        labels = [len(label) for _, lines in self.blocks for label, _ in lines]
        widths = [
            max(
                len(column.header),
                *(len(row.cells[column.key].text + row.cells[column.key].spread * self.spread) for row in t.rows),
            )
            for t, column in self.slots
        ]
        return max(labels) + sum(width + 2 for width in widths)


def _merged(tables: Sequence[Table], models: Sequence[str]) -> list[tuple[str, list[tuple[str, list[Row | None]]]]]:
    """Blocks of lines; each line has a label and, for every table, the row of that label if there is one."""
    by_label = [{(row.block, row.label): row for row in table.rows} for table in tables]
    known = {key: row for rows in by_label for key, row in rows.items()}
    position = {model: index for index, model in enumerate(models)}
    ordered = sorted(known, key=lambda key: (position.get(known[key].model, len(models)), known[key].configuration))
    blocks = dict.fromkeys(row.block for table in tables for row in table.rows)
    return [
        (
            block,
            [(label, [rows.get((block, label)) for rows in by_label]) for b, label in ordered if b == block],
        )
        for block in blocks
    ]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _emphasised(cell: TableCell) -> str:
    if cell.best:
        return rf"\textbf{{{cell.text}}}"
    return rf"\underline{{{cell.text}}}" if cell.second else cell.text


def _dagger(mark: str) -> str:
    """Write a mark, or leave its room free: figures of one column stay below each other."""
    return rf"\textsuperscript{{{_ESCAPES[mark]}}}" if mark else r"\phantom{\textsuperscript{$\dagger$}}"


def _listed(words: Sequence[str]) -> str:
    """Write "a", "a and b" or "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _fraction(cell: TableCell) -> str:
    return split_at_point(cell.text)[1] if cell.n else ""


def _superscript(notes: Sequence[int]) -> str:
    # Letters: a raised number beside a figure would read as an exponent.
    letters = [chr(ord("a") + note) if note < 26 else str(note + 1) for note in sorted(set(notes))]
    return rf"\textsuperscript{{{','.join(letters)}}}" if letters else ""


def _overhanging(mark: str) -> str:
    return rf"\rlap{{{mark}}}" if mark else ""
