"""seqbench: accuracy and cost of efficient sequential recommenders, side by side."""

__version__ = "0.1.0"
