"""Initial weights that several models share, and what keeps them."""

from collections.abc import Iterable

from torch import Tensor, nn

from seqbench.models.attention import SelfAttention


def draw_normal(modules: Iterable[nn.Module]) -> None:
    """Weights of linear maps and embeddings from N(0, 0.02²), biases of linear maps 0, as RecBole's models do."""
    for module in modules:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def draw_xavier(model: nn.Module) -> None:
    """Draw all that has more than one axis from the normal distribution of Glorot and Bengio, as RecTools does.

    Vectors keep torch's own distributions, but for the biases of attention, which are 0.
    """
    for module in model.modules():
        if isinstance(module, SelfAttention):
            nn.init.zeros_(module.qkv.bias)
            nn.init.zeros_(module.attention_out.bias)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)


def keep_padding(embedding: nn.Embedding) -> None:
    """Keep row 0 of an item table as it is, in the scores too: its gradient is 0."""

    def without_padding(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[0] = 0
        return gradient

    embedding.weight.register_hook(without_padding)
