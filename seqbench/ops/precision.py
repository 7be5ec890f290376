"""Half precision for implementations that compute in single precision and better."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Half precision in and out, float32 within; other precisions pass untouched.

    The first argument decides; results are a tensor or a tuple of tensors.
    """

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        dtype = arguments[0].dtype
        if dtype not in HALF:
            return function(*arguments)
        wide = [a.float() if isinstance(a, Tensor) and a.dtype == dtype else a for a in arguments]
        results = function(*wide)
        return results.to(dtype) if isinstance(results, Tensor) else tuple(result.to(dtype) for result in results)

    return wrapper
