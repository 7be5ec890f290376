"""Raw formats by name, as used in datasets.yaml. A new format is one function in one file, and one entry here."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, cast

from seqbench.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from seqbench.data.log import Log


@dataclass(frozen=True)
class Format:
    """A raw format of interactions."""

    parser: str  # "module:function", imported when it is used
    rated: bool = True  # whether its rows have ratings
    timed: bool = True  # whether they have times, or only an order

    def parse(self, stream: BinaryIO, where: str, *, ratings: bool = False) -> "Log":
        """Read a raw file.

        Args:
            stream: its content, unpacked.
            where: names it in messages.
            ratings: whether the ratings are needed.

        Raises:
            SeqbenchError: the file is empty, or is malformed past the limit.
        """
        module, _, function = self.parser.partition(":")
        parser = cast("Callable[..., Log]", getattr(import_module(module), function))
        return parser(stream, where, ratings=ratings)


_AMAZON = "seqbench.data.parsers.amazon"
_MOVIELENS = "seqbench.data.parsers.movielens"
_SEQUENCES = "seqbench.data.parsers.sequences"

FORMATS: Registry[Format] = Registry(
    "Raw format",
    {
        "amazon-2014": Format(f"{_AMAZON}:user_first"),
        "amazon-2018": Format(f"{_AMAZON}:item_first"),
        "amazon-2023": Format(f"{_AMAZON}:benchmark"),
        "amazon-reviews": Format(f"{_AMAZON}:reviews"),
        "gowalla": Format("seqbench.data.parsers.gowalla:interactions", rated=False),
        "movielens-colons": Format(f"{_MOVIELENS}:colons"),
        "movielens-csv": Format(f"{_MOVIELENS}:comma"),
        "movielens-tab": Format(f"{_MOVIELENS}:tab"),
        "netflix": Format("seqbench.data.parsers.netflix:interactions"),
        "recbole-inter": Format("seqbench.data.parsers.recbole:interactions"),
        "sequence-lines": Format(f"{_SEQUENCES}:lines", rated=False, timed=False),
        "steam": Format("seqbench.data.parsers.steam:interactions", rated=False),
        "xlong": Format(f"{_SEQUENCES}:xlong", rated=False, timed=False),
        "yelp": Format(f"{_AMAZON}:yelp"),
    },
    listing="seqbench list datasets",
)

# Formats of item titles: functions from a binary stream to raw item id → title.
TITLES: "Registry[Callable[[BinaryIO], dict[str, str]]]" = Registry(
    "Format of titles",
    {
        "amazon-metadata": "seqbench.data.parsers.objects:titles",
        "movielens-bars": f"{_MOVIELENS}:titles_bars",
        "movielens-colons": f"{_MOVIELENS}:titles_colons",
        "movielens-csv": f"{_MOVIELENS}:titles_comma",
        "recbole-item": "seqbench.data.parsers.recbole:titles",
    },
    listing="seqbench list datasets",
)
