"""Initial weights that several models share."""

from collections.abc import Iterable

from torch import nn


def draw_normal(modules: Iterable[nn.Module]) -> None:
    """Weights of linear maps and embeddings from N(0, 0.02²), biases of linear maps 0, as RecBole's models do."""
    for module in modules:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
