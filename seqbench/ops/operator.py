"""How an operator becomes a node: of autograd's graph where it is called, of the compiler's under torch.compile.

Registered with torch.library (schema, fake tensors, autograd), it is opaque to torch.compile. Called that way outside
of it, a small scan with its gradient takes 0.4 to 0.5 ms, most of it torch's bookkeeping; the same functions behind
torch.autograd.Function take 0.24, and a training step of a small model has a dozen such calls.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[..., Any]


class Operator:
    """A function of tensors with a gradient of its own, differentiable once. Arguments are given by position."""

    def __init__(
        self,
        name: str,
        forward: tuple[Function, Function],
        save: Function,
        pull: Function,
        backward: tuple[Function, Function] | None = None,
    ) -> None:
        """Register `seqbench::<name>`, and `seqbench::<name>_backward` if there is one.

        Args:
            forward: the function, annotated, since its schema follows from that; and one that makes empty results of
                the same shapes.
            save: (ctx, inputs, output) → None, keeps what the gradients need.
            pull: (ctx, backward, *gradients of the results) → gradients of all arguments.
            backward: the same pair for what `pull` calls.
        """

        def node(operator: Function | None) -> Function:
            return once_differentiable(lambda ctx, *gradients: pull(ctx, operator, *gradients))

        self.compiled = _register(name, *forward)
        through = backward and _register(f"{name}_backward", *backward)
        self.compiled.register_autograd(node(through), setup_context=save)

        def run(ctx, *arguments):  # type: ignore[no-untyped-def]
            results = forward[0](*arguments)
            save(ctx, arguments, results)
            return results

        # Not as a `setup_context` of its own: binding the arguments for one takes torch longer than all else here.
        methods = {"forward": staticmethod(run), "backward": staticmethod(node(backward and backward[0]))}
        self.called: Function = type(name, (torch.autograd.Function,), methods).apply  # type: ignore[attr-defined]

    def __call__(self, *arguments: Any) -> Any:
        return (self.compiled if torch.compiler.is_compiling() else self.called)(*arguments)


def _register(name: str, function: Function, fake: Function) -> Any:
    operator = torch.library.custom_op(f"seqbench::{name}", function, mutates_args=())
    operator.register_fake(fake)
    return operator


def like(tensor: Tensor) -> Tensor:
    """An empty contiguous tensor of the same shape, dtype and device."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def check(name: str, tensor: Tensor, **others: tuple[Tensor | None, Sequence[int]]) -> None:
    """Raise ValueError unless the others, each with the shape that it must have, go with the tensor of that name."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(f"{name} must be floating-point numbers, got {tensor.dtype}")
    for other, (given, shape) in others.items():
        if given is None:
            continue
        if given.shape != tuple(shape):
            raise ValueError(f"{other} must be {tuple(shape)}, got {tuple(given.shape)}")
        if given.dtype != tensor.dtype or given.device != tensor.device:
            raise ValueError(
                f"{other} is {given.dtype} on {given.device}, {name} are {tensor.dtype} on {tensor.device}"
            )
