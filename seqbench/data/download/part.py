"""A file that is being fetched: it outlives a killed process, and the next one goes on where it ends."""

import os
import re
from pathlib import Path

import httpx

from seqbench import console
from seqbench.data.catalog import Source
from seqbench.data.download.verify import digest_of, remembered

# An ETag that vouches for the very same bytes, and that can be sent back as it came.
STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')


class Part:
    """The bytes of a file that are there, and whose they are."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self.tag = target.with_name(f".{target.name}.tag")  # the URL that it comes from, and that server's ETag

    @property
    def size(self) -> int:
        """Return the bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Start from nothing."""
        if self.path.parent.is_dir():
            self.path.unlink(missing_ok=True)
            self.tag.unlink(missing_ok=True)

    def headers(self, source: Source, url: str) -> dict[str, str]:
        """Return the request for what is missing; discard what cannot be gone on with.

        A checksum tells whether the pieces belong together. Without one, only a server that vouches for it with
        an ETag is asked for the rest.
        """
        if not self.size:
            return {}
        if source.pinned:
            return {"Range": f"bytes={self.size}-"}
        if etag := self.etag_of(url):
            return {"Range": f"bytes={self.size}-", "If-Range": etag}
        self.discard()
        return {}

    def etag_of(self, url: str) -> str | None:
        """Return the ETag of the file that the bytes from `url` belong to, if it is known."""
        try:
            known, _, etag = self.tag.read_text("ascii").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        return etag if known == url and STRONG_ETAG.fullmatch(etag) else None

    def remember(self, url: str, response: httpx.Response) -> None:
        """Keep the ETag of the file that a server begins to send, if it can vouch for anything."""
        etag = response.headers.get("ETag", "")
        if url.isascii() and STRONG_ETAG.fullmatch(etag):
            self.tag.write_text(f"{url}\n{etag}", "ascii")

    def finish(self, source: Source) -> None:
        """Give the complete, verified file its name."""
        if not source.pinned:
            digest = digest_of(self.path, "sha256")
            console.note(f"{source.filename}: no checksum is published for it; its sha256 is {digest}.")
            remembered(self.target).write_text(digest, "ascii")
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        self.path.replace(self.target)
        self.tag.unlink(missing_ok=True)
