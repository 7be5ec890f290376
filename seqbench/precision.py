"""Precisions that models compute in. Weights, optimizers, scans, losses, scores and ranks are float32 in all of them.

`bf16` is what mixed precision usually means: the matrix products of the encoder take and give bfloat16. States have the
time dimension to add up rounding over, gates near 1 do not exist in bfloat16, and scores that differ by less than its
steps would tie: so the operators (seqbench.ops) and the product with the catalogue step out of it.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar, cast

import torch
from torch import Tensor

from seqbench.errors import UsageError
from seqbench.registry import Registry

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Precision:
    """How products of matrices are computed.

    Args:
        tf32: in float32 with the mantissa cut to 10 bits, where a GPU does that faster.
        half: the dtype of the encoder's products; None for float32.
    """

    tf32: bool
    half: torch.dtype | None = None

    @contextlib.contextmanager
    def active(self, device: torch.device) -> Iterator[None]:
        """Compute in this precision on a device for as long as the context lasts."""
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32
        matmul.allow_tf32 = cudnn.allow_tf32 = self.tf32
        try:
            # A cache of cast weights would outlive the steps that change them.
            with torch.autocast(device.type, self.half, enabled=self.half is not None, cache_enabled=False):
                yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32 = before


PRECISIONS: Registry[Precision] = Registry(
    "Precision",
    {"fp32": Precision(tf32=False), "tf32": Precision(tf32=True), "bf16": Precision(tf32=True, half=torch.bfloat16)},
    "seqbench run --help",
)


def check(name: str, device: torch.device) -> None:
    """Check that a device has a precision.

    Raises:
        UsageError: it has not, or there is no such precision.
    """
    if PRECISIONS[name].tf32 and PRECISIONS[name].half is None and device.type != "cuda":
        raise UsageError(f"Precision {name} is one of NVIDIA GPUs; this is {device}.", hint="Use fp32 or bf16.")


def full(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which products are float32 whatever the precision of all around it."""
    return torch.autocast(device.type, enabled=False) if _halved(device) else contextlib.nullcontext()


def in_full(function: Function) -> Function:
    """Make a function of tensors compute in float32 where the precision around it is a half one.

    The device is that of the first tensor among its arguments.
    """

    def widened(value: object) -> object:
        return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value

    @wraps(function)
    def wrapper(*arguments: object, **keywords: object) -> object:
        first = next(value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor))
        if not _halved(first.device):
            return function(*arguments, **keywords)
        with torch.autocast(first.device.type, enabled=False):
            return function(*map(widened, arguments), **{name: widened(value) for name, value in keywords.items()})

    return cast(Function, wrapper)


def _halved(device: torch.device) -> bool:
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
