"""Raw formats by name, as used in datasets.yaml. A new format is one function in one file, and one line here.

Interactions: `parse(stream, where, ratings=False) -> RawInteractions`, where `stream` is a binary stream with
`read` and `readline`, `where` names it in messages, and `ratings` asks for them as well. Titles:
`parse(stream) -> dict[raw item id, title]`.
"""

import importlib
from collections.abc import Callable
from typing import Any

INTERACTIONS = {
    "amazon-2014": "seqbench.data.parsers.amazon:user_first",
    "amazon-2018": "seqbench.data.parsers.amazon:item_first",
    "amazon-2023": "seqbench.data.parsers.amazon:benchmark",
    "amazon-reviews": "seqbench.data.parsers.amazon:reviews",
    "gowalla": "seqbench.data.parsers.gowalla:interactions",
    "movielens-colons": "seqbench.data.parsers.movielens:colons",
    "movielens-csv": "seqbench.data.parsers.movielens:comma",
    "movielens-tab": "seqbench.data.parsers.movielens:tab",
    "netflix": "seqbench.data.parsers.netflix:interactions",
    "recbole-inter": "seqbench.data.parsers.recbole:interactions",
    "sequence-lines": "seqbench.data.parsers.sequences:lines",
    "steam": "seqbench.data.parsers.steam:interactions",
    "xlong": "seqbench.data.parsers.sequences:xlong",
    "yelp": "seqbench.data.parsers.amazon:yelp",
}

# Formats without ratings, and without times.
UNRATED = ("gowalla", "sequence-lines", "steam", "xlong")
UNTIMED = ("sequence-lines", "xlong")

TITLES = {
    "amazon-metadata": "seqbench.data.parsers.objects:titles",
    "movielens-bars": "seqbench.data.parsers.movielens:titles_bars",
    "movielens-colons": "seqbench.data.parsers.movielens:titles_colons",
    "movielens-csv": "seqbench.data.parsers.movielens:titles_comma",
    "recbole-item": "seqbench.data.parsers.recbole:titles",
}


def load(registry: dict[str, str], name: str) -> Callable[..., Any]:
    """Import the parser called `name`; what parsing needs is imported only now."""
    module, function = registry[name].split(":")
    parser: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return parser
