"""How an operator becomes a node: of autograd's graph where it is called, of the compiler's under torch.compile.

Registered with torch.library (schema, fake tensors, autograd), it is opaque to torch.compile. Called that way outside
of it, a small scan with its gradient takes 0.4 to 0.5 ms, most of it torch's bookkeeping; the same functions behind
torch.autograd.Function take 0.24, and a training step of a small model has a dozen such calls.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from seqbench.ops.backends import AUTO, BACKENDS, resolve

Function = Callable[..., Any]

_VISIBLE = ContextVar("visible", default=False)


@dataclass(frozen=True)
class Signature:
    """What torch must know of a function without calling it.

    Attributes:
        schema: its arguments and results as torch.library writes them; the backend's name is not among them.
        empty: arguments → tensors of the shapes, dtypes and device of the results.
        flops: arguments → multiplications and additions of the formula, for torch's FlopCounterMode; exponentials,
            roots and the like are not counted, as they are not elsewhere. None: what no model's cost depends on.
    """

    schema: str
    empty: Function
    flops: Function | None = None


@dataclass(frozen=True)
class Gradient:
    """How an operator is differentiated, once.

    Attributes:
        save: (ctx, arguments, results) → None; keeps what the gradients need.
        vjp: (ctx, backward, *gradients of the results) → gradients of all arguments; `backward` is the backend's.
        backward: of the backend's function; None where `vjp` needs none.
    """

    save: Function
    vjp: Function
    backward: Signature | None = None


class Operator:
    """A function of tensors that every backend may compute in its own way. Arguments are given by position.

    A backend has a module of the operator's name with `forward` and, if the gradient asks for one, `backward`.
    """

    def __init__(
        self,
        name: str,
        forward: Signature,
        gradient: Gradient | None = None,
        container: type[tuple[Any, ...]] | None = None,
    ) -> None:
        """Register `seqbench::<name>`, and `seqbench::<name>_backward` if there is one, with torch.

        Args:
            name: of the operator, and of the backends' modules.
            forward: of the backends' function.
            gradient: None for an operator that has none.
            container: a NamedTuple that the first arguments of `forward` and `backward` are put into for the
                backends; None if they are given one by one.
        """
        self.name = name
        self.container = container
        compute, node = self._function("forward"), _register(name, forward, self._function("forward"))
        self._traced: Function = node
        self._eager: Function = compute if gradient is None else self._differentiable(node, compute, gradient)

    def __call__(self, *arguments: Any, backend: str = AUTO) -> Any:
        """Compute the results on the device of the first argument.

        Raises:
            UsageError: the backend is unknown or cannot run on this device.
        """
        chosen = resolve(self.name, backend, arguments[0].device.type)
        if chosen.autograd:
            return chosen.load(self.name).forward(*self._packed(arguments))
        opaque = torch.compiler.is_compiling() or _VISIBLE.get()
        return (self._traced if opaque else self._eager)(*arguments, chosen.name)

    def _function(self, direction: str) -> Function:
        """The function of every backend: it takes the backend's name as its last argument."""

        def compute(*arguments: Any) -> Any:
            *given, backend = arguments
            return getattr(BACKENDS[backend].load(self.name), direction)(*self._packed(given))

        return compute

    def _packed(self, arguments: Sequence[Any]) -> Sequence[Any]:
        if self.container is None:
            return arguments
        count = len(self.container._fields)  # type: ignore[attr-defined]
        return self.container(*arguments[:count]), *arguments[count:]

    def _differentiable(self, traced: Any, compute: Function, gradient: Gradient) -> Function:
        """Give both nodes their gradient; return the one of autograd."""
        backward = traced_backward = None
        if gradient.backward is not None:
            backward = self._function("backward")
            traced_backward = _register(f"{self.name}_backward", gradient.backward, backward)

        def save(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
            *arguments, ctx.backend = inputs
            gradient.save(ctx, arguments, output)

        def vjp(function: Function | None) -> Function:
            def pulled(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
                return *gradient.vjp(ctx, function and (lambda *given: function(*given, ctx.backend)), *gradients), None

            return once_differentiable(pulled)

        traced.register_autograd(vjp(traced_backward), setup_context=save)

        def run(ctx: Any, *arguments: Any) -> Any:
            results = compute(*arguments)
            save(ctx, arguments, results)
            return results

        # Not as a `setup_context` of its own: binding the arguments for one takes torch longer than all else here.
        methods = {"forward": staticmethod(run), "backward": staticmethod(vjp(backward))}
        node: Function = type(self.name, (torch.autograd.Function,), methods).apply  # type: ignore[attr-defined]
        return node


def _register(name: str, signature: Signature, function: Function) -> Any:
    arguments, _, results = signature.schema.rpartition(" -> ")
    schema = f"{arguments.removesuffix(')')}, str backend) -> {results}"
    operator = torch.library.custom_op(f"seqbench::{name}", function, mutates_args=(), schema=schema)
    operator.register_fake(lambda *given: signature.empty(*given[:-1]))
    if signature.flops is not None:
        formula = signature.flops
        node = getattr(torch.ops.seqbench, name)
        register_flop_formula(node, get_raw=True)(lambda *given, out_val=None: formula(*given[:-1]))
    return operator


@contextmanager
def visible() -> Iterator[None]:
    """Call operators as nodes that torch's dispatch modes see, FlopCounterMode among them."""
    before = _VISIBLE.set(True)
    try:
        yield
    finally:
        _VISIBLE.reset(before)


def like(tensor: Tensor) -> Tensor:
    """Return an empty contiguous tensor of the same shape, dtype and device."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def check(name: str, tensor: Tensor, **others: tuple[Tensor | None, Sequence[int]]) -> None:
    """Check that the others, each with the shape that it must have, go with the tensor of that name.

    Raises:
        ValueError: a shape, dtype or device does not fit, or the tensor does not hold floating-point numbers.
    """
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
