"""Footnotes of a table."""


def note(footnotes: list[str], text: str) -> int:
    """Add a footnote unless there is an equal one, and return its index."""
    if text not in footnotes:
        footnotes.append(text)
    return footnotes.index(text)
