"""Fetch the sources of data sets, verified, to the downloads folder."""

from seqbench.data.download.sources import fetch, fetch_all
from seqbench.data.download.verify import forget

__all__ = ["fetch", "fetch_all", "forget"]
