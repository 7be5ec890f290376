"""Half precision for implementations that compute in single precision and better."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function take and return half precision while it computes in float32; leave other precisions untouched.

    The first argument, a tensor or a NamedTuple that begins with one, decides; results are a tensor or a tuple of
    tensors, of which those of whole numbers stay what they are.
    """

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        first = arguments[0]
        dtype = (first if isinstance(first, Tensor) else first[0]).dtype
        if dtype not in HALF:
            return function(*arguments)

        def wide(value: Any) -> Any:
            if isinstance(value, tuple):
                return value._make(map(wide, value))  # type: ignore[attr-defined]
            return value.float() if isinstance(value, Tensor) and value.dtype == dtype else value

        def narrow(result: Tensor) -> Tensor:
            return result.to(dtype) if result.is_floating_point() else result

        results = function(*map(wide, arguments))
        return narrow(results) if isinstance(results, Tensor) else tuple(map(narrow, results))

    return wrapper
