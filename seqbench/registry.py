"""Registries: from the name of a thing to the thing, which is imported when it is first used.

Models, raw formats, protocols, metrics, losses, objectives, report formats and executors are each one `Registry`. The
choices and help texts of the command line follow from its names, and an unknown name gets the nearest one suggested.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Generic, TypeVar, cast

from seqbench.errors import UsageError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing, in the order in which they are listed.

    Args:
        kind: what an entry is called in messages, such as "Metric".
        entries: name → the thing itself, or "module:attribute" for one that is imported on first use.
        listing: the command that shows the names.
    """

    def __init__(self, kind: str, entries: Mapping[str, T | str], listing: str) -> None:
        self.kind = kind
        self.listing = listing
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        """Return the thing of that name.

        Raises:
            UsageError: no entry has the name.
        """
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries, self.listing)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), attribute)
        return cast(T, entry)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, entry: T | str) -> None:
        """Register a thing of your own.

        Raises:
            UsageError: the name is taken.
        """
        if name in self._entries:
            raise UsageError(f"{self.kind} '{name}' is registered already.", hint="Choose another name.")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Forget an entry that was added."""
        del self._entries[name]

    @contextmanager
    def added(self, name: str, entry: T | str) -> Iterator[None]:
        """Register a thing for the duration of a `with` block."""
        self.add(name, entry)
        try:
            yield
        finally:
            self.remove(name)

    def items(self) -> Iterator[tuple[str, T]]:
        """Return names and things; imports them all."""
        return ((name, self[name]) for name in self._entries)

    def words(self) -> str:
        """Return the names for a help text: "a, b, c"."""
        return ", ".join(self._entries)
