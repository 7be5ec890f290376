"""Why a source cannot be used, between the ways of fetching and the choice among sources."""

import re


class SourceError(Exception):
    """A source cannot be used; the message says why, in words that end an error line."""


class MissingError(SourceError):
    """The server is there, but has no such file."""


class Interrupted(Exception):
    """All downloads are to end: no other source and no other attempt is tried."""


class TransientError(SourceError):
    """The same, but another attempt may succeed, `wait` seconds later at the earliest."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def without_secrets(text: str) -> str:
    """Return a text with the URLs in it cut down to what may be shown: no user names, passwords, queries or tokens."""
    text = re.sub(r"(?<=://)[^/@\s'\"]*@", "", text)
    return re.sub(r"(://[^\s?#'\")]*)[?#][^\s'\")]*", r"\1?…", text)
