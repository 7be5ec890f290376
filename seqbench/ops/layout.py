"""What kernels ask of a tensor's memory."""

from torch import Tensor


def plain(tensor: Tensor) -> Tensor:
    """Contiguous, with conjugation and negation, which torch may only have noted, carried out."""
    return tensor.resolve_conj().resolve_neg().contiguous()


def rows(tensor: Tensor) -> Tensor:
    """With adjacent channels, conjugation and negation carried out; a copy only if need be."""
    tensor = tensor.resolve_conj().resolve_neg()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
