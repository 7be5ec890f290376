"""Problems for the compiled kernels: every operator, form, element type and layout of memory, small.

A problem and the reference's answer to it are made once, of numbers that every element type holds exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from seqbench.ops.functions.linear_cross_entropy import linear_cross_entropy
from seqbench.ops.functions.linear_scan import linear_scan
from seqbench.ops.functions.rg_lru import rg_lru
from seqbench.ops.functions.selective_scan import selective_scan
from tests.ops.opskit import SUMMED, assert_close, coarse, pairwise, rotating
from tests.ops.test_cuda_kernels import differentiated

LAYOUTS = ("contiguous", "time-major", "sliced", "every other step")


@dataclass
class Problem:
    """Arguments of an operator and cotangents of its results, in double precision.

    Attributes:
        function: the operator.
        tensors: those that have gradients, by name.
        sequences: names of those (B, T, …) whose layout in memory may vary, as that of the first cotangent.
        cotangents: of the results.
        options: other arguments.
    """

    function: Callable[..., Any]
    tensors: dict[str, Tensor]
    sequences: tuple[str, ...]
    cotangents: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def truth(self) -> list[Tensor]:
        """Results and gradients of the reference."""
        return differentiated(self.function, self.tensors, self.cotangents, backend="reference", **self.options)


@dataclass(frozen=True)
class Operator:
    """What the problems of an operator are made of.

    Attributes:
        make: takes a generator, whether numbers are complex, the length, the other sizes and the choices.
        sizes: all but the length.
        lengths: steps, or items: one, fewer and more than a thread reads at a time, and several chunks (`gpu.force`).
        remaining: lengths that leave any number of steps, or of chunks, behind those that are read together.
        choices: what a problem has or has not.
        layouts: of its sequences.
        forms: of its kernels, see `gpu.force`.
        is_complex: whether there are kernels for complex numbers.
    """

    make: Callable[..., Problem]
    sizes: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    remaining: range
    choices: tuple[str, ...] = ()
    layouts: tuple[str, ...] = LAYOUTS
    forms: tuple[str, ...] = ("channels", "chunked", "many chunks")
    is_complex: bool = False

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        real = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
        return (*real, torch.complex64, torch.complex128) if self.is_complex else real


@dataclass(frozen=True)
class Case:
    """A problem for one form of the kernels, with its sequences in one layout."""

    operator: str
    form: str
    layout: str
    sizes: tuple[int, ...]
    length: int
    choices: tuple[bool, ...]

    def check(self, dtype: torch.dtype) -> None:
        """Compare the backend "cuda" with the reference; its kernels get the strides that the tensors have."""
        given = problem(self.operator, dtype.is_complex, self.length, *self.sizes, *self.choices)
        tensors = {name: tensor.to(dtype) for name, tensor in given.tensors.items()}
        tensors |= {name: laid_out(tensors[name], self.layout) for name in given.sequences}
        first, *others = (tensor.to(dtype) for tensor in given.cotangents)
        cotangents = [laid_out(first, self.layout), *others]
        ours = differentiated(given.function, tensors, cotangents, backend="cuda", **given.options)
        names = [*(f"result {index}" for index in range(len(cotangents))), *tensors]
        for name, mine, true in zip(names, ours, given.truth, strict=True):
            assert mine.dtype == dtype
            assert_close(mine, true, dtype, f"{self}: {name}", SUMMED[self.operator].get(name, 1.0))


def looked_at_for_races(operator: str) -> list[Case]:
    """Return the cases in which accesses of threads are compared, which takes longer."""
    return cases(operator)[::3]


@cache
def cases(operator: str) -> list[Case]:
    """Return cases in which any two of form, layout, sizes, length and choices meet."""
    of = OPERATORS[operator]
    met = pairwise(of.forms, of.layouts, of.sizes, of.lengths, *[(False, True)] * len(of.choices))
    return [
        Case(operator, form, layout, sizes, length, tuple(choices)) for form, layout, sizes, length, *choices in met
    ]


@cache
def remainders(operator: str) -> list[Case]:
    """Return cases that leave any number of steps, or of chunks, behind those that are read together."""
    of = OPERATORS[operator]
    return [
        Case(operator, form, of.layouts[0], of.sizes[0], T, tuple(bool(index >> j & 1) for j in range(len(of.choices))))
        for index, T in enumerate(of.remaining)
        for form in of.forms
        if "shared" not in form
    ]


def all_cases(operator: str, lengths: tuple[int, ...]) -> Iterator[Case]:
    """Yield the product of forms, sizes, choices and lengths, in each layout in turn."""
    of = OPERATORS[operator]
    choices = product((False, True), repeat=len(of.choices))
    for form, sizes, chosen, length, layout in rotating(product(of.forms, of.sizes, choices, lengths), of.layouts):
        yield Case(operator, form, layout, sizes, length, chosen)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same (B, T, D) values with other strides."""
    if layout == "contiguous":
        return tensor
    B, T, D = tensor.shape
    if layout == "time-major":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "sliced":
        wide = torch.full((B, T, 2 * D + 3), torch.nan, dtype=tensor.dtype)
        wide[..., 3 : 3 + D] = tensor
        return wide[..., 3 : 3 + D]
    assert layout == "every other step"
    wide = torch.full((B, 2 * T, D), torch.nan, dtype=tensor.dtype)
    wide[:, ::2] = tensor
    return wide[:, ::2]


@cache
def problem(operator: str, is_complex: bool, length: int, *rest: Any) -> Problem:
    """Return a problem of an operator, of so many steps or items; its other sizes and its choices follow."""
    return OPERATORS[operator].make(torch.Generator().manual_seed(length), is_complex, length, *rest)


def _randn(generator: torch.Generator, *shape: int) -> Tensor:
    return coarse(torch.randn(*shape, generator=generator))


def _rand(generator: torch.Generator, *shape: int) -> Tensor:
    return coarse(torch.rand(*shape, generator=generator))


def _remembering(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw gates of which every second channel's are next to one: a state is still there at the end of a chunk."""
    return coarse(1 - _rand(generator, *shape) * torch.tensor([0.1, 1.0]).repeat(shape[-1])[: shape[-1]])


def _linear(
    generator: torch.Generator, is_complex: bool, T: int, B: int, D: int, constant: bool, lengths: bool
) -> Problem:
    def drawn(*shape: int) -> Tensor:
        parts = _randn(generator, *shape), _randn(generator, *shape)
        return torch.complex(*parts) if is_complex else parts[0]

    shape = (D,) if constant else (B, T, D)
    gates = _remembering(generator, *shape)
    if is_complex:
        turned = torch.polar(gates, 6.28 * _rand(generator, *shape))
        gates = torch.complex(coarse(turned.real), coarse(turned.imag))
    return Problem(
        linear_scan,
        {"gates": gates, "inputs": drawn(B, T, D), "initial_state": drawn(B, D)},
        ("inputs",) if constant else ("gates", "inputs"),
        [drawn(B, T, D)],
        {"lengths": torch.tensor([T, 0, max(T // 2, 1)])[:B]} if lengths else {},
    )


def _gated(generator: torch.Generator, is_complex: bool, T: int, B: int, D: int) -> Problem:
    tensors = {
        "inputs": _randn(generator, B, T, D),
        "gates": coarse(3 * _randn(generator, B, T, 2 * D)),
        "decay": coarse(2 * _randn(generator, D) + torch.tensor([-3.0, 1.0]).repeat(D)[:D]),
        "initial_state": _randn(generator, B, D),
    }
    return Problem(rg_lru, tensors, ("inputs", "gates"), [_randn(generator, B, T, D)])


def _selective(
    generator: torch.Generator, is_complex: bool, T: int, B: int, D: int, N: int, softplus: bool, optional: bool
) -> Problem:
    tensors = {
        "inputs": _randn(generator, B, T, D),
        "deltas": coarse(_randn(generator, B, T, D) - 1) if softplus else _rand(generator, B, T, D),
        "decay": coarse(2 * _remembering(generator, D, N) - 2.05),
        "drive": _randn(generator, B, T, N),
        "readout": _randn(generator, B, T, N),
    }
    sequences = ["inputs", "deltas", "drive", "readout"]
    if optional:
        tensors |= {
            "skip": _randn(generator, D),
            "gate": _randn(generator, B, T, D),
            "initial_state": _randn(generator, B, D, N),
        }
        sequences.append("gate")
    cotangents = [_randn(generator, B, T, D), _randn(generator, B, D, N)]
    return Problem(selective_scan, tensors, tuple(sequences), cotangents, {"delta_softplus": softplus})


def _cross_entropy(
    generator: torch.Generator,
    is_complex: bool,
    V: int,
    N: int,
    D: int,
    bias: bool,
    ruled_out: bool,
    learned: bool,
    far: bool,
) -> Problem:
    """Items that are ruled out have a bias of minus infinity; what has been learned is most probable.

    Logits that are far apart are exact in any type, since an exponential would make much of what is lost; and nothing
    has been learned, since the reference's loss is a difference that would leave nothing.
    """
    tensors = {"states": _randn(generator, N, D), "items": _randn(generator, V, D)}
    if far and not learned:
        tensors = {"states": 16 * (2 * tensors["states"]).round(), "items": tensors["items"].mul(4).round() / 4}
    logits = tensors["states"] @ tensors["items"].t()
    # In every part of a row some position has its target.
    targets = torch.arange(N) * 37 % V
    if bias or ruled_out:
        tensors["bias"] = _randn(generator, V)
        if ruled_out:
            tensors["bias"][3::7] = -torch.inf
            targets = (targets + (targets % 7 == 3)) % V
        logits += tensors["bias"]
    if learned:
        targets = logits.argmax(dim=1)
    options = {"targets": targets} if "bias" in tensors else {"bias": None, "targets": targets}
    return Problem(linear_cross_entropy, tensors, (), [torch.ones((), dtype=torch.float64)], options)


OPERATORS = {
    # Sizes are batch and channels (and states): less than a warp, a part of the second one, many groups.
    "linear_scan": Operator(
        _linear, ((3, 5), (2, 33), (1, 131)), (1, 29, 130), range(48, 160, 7), ("constant", "lengths"), is_complex=True
    ),
    "rg_lru": Operator(_gated, ((3, 5), (2, 33), (1, 131)), (1, 29, 130), range(48, 160, 7)),
    "selective_scan": Operator(
        _selective,
        ((2, 5, 3), (2, 33, 16), (1, 70, 8), (1, 9, 40), (1, 3, 256), (1, 17, 20)),
        (1, 29, 130),
        range(48, 160, 7),
        ("softplus", "optional"),
        forms=("channels", "channels, shared", "chunked", "chunked, shared", "many chunks"),
    ),
    # Sizes are positions and width.
    "linear_cross_entropy": Operator(
        _cross_entropy,
        ((1, 3), (5, 8), (40, 2)),
        (1, 31, 1000),
        range(512, 1024, 32),
        ("bias", "ruled_out", "learned", "far"),
        layouts=LAYOUTS[:1],
        forms=("rows", "slices"),
    ),
}
PAIRS = [(operator, dtype) for operator, of in OPERATORS.items() for dtype in of.dtypes]
