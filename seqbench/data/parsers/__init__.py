"""Raw formats by name, as used in datasets.yaml. A new format is one function in one file, and one line here.

Interactions: `parse(stream, where) -> RawInteractions`, where `stream` is a binary stream with `read` and
`readline`, and `where` names it in messages. Titles: `parse(stream) -> dict[raw item id, title]`.
"""

import importlib
from collections.abc import Callable
from typing import Any

INTERACTIONS = {
    "movielens-tab": "seqbench.data.parsers.movielens:interactions",
    "recbole-inter": "seqbench.data.parsers.recbole:interactions",
}

TITLES = {
    "movielens-item": "seqbench.data.parsers.movielens:titles",
    "recbole-item": "seqbench.data.parsers.recbole:titles",
}


def load(registry: dict[str, str], name: str) -> Callable[..., Any]:
    """Import the parser called `name`; what parsing needs is imported only now."""
    module, function = registry[name].split(":")
    parser: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return parser
