"""A function of torch tensors as a list of instructions for kernels/step.cpp.

The function is called once, and every torch operation in it is written down. Each tensor that depends on the inputs
has places in one array of numbers: an integer tensor of its own shape that says where its elements are. Views are then
nothing but the same view of the places, and no instruction; what depends on constants alone is computed here, once.

Only what a step of our models consists of is known. Anything else, and looking at a value, raises `Unsupported`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

Places = Tensor  # int64, where the elements of a tensor are; of a complex one the real parts, the imaginary ones follow

# In the order of kernels/step.cpp.
OPCODES = (
    *("add", "sub", "mul", "div"),
    *("neg", "exp", "expm1", "sqrt", "sigmoid", "tanh", "silu", "hardswish", "gelu", "softplus", "elu"),
    *("reciprocal", "clamp_min"),
    *("copy", "gather", "scatter", "complex_mul", "sum", "norm", "layer_norm", "product", "matmul", "embed"),
)
UNARY = {
    *("neg", "exp", "expm1", "sqrt", "sigmoid", "tanh", "silu", "hardswish", "gelu", "softplus", "elu", "reciprocal"),
}
BINARY = {"add", "sub", "mul", "div"}
VIEWS = {
    *("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "t", "transpose", "permute", "expand", "select"),
    *("slice", "unbind", "split", "split_with_sizes", "unsafe_split", "detach", "alias"),
}
FACTORIES = {"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"}
LARGEST_INTEGER = 1 << 24  # beyond it a float has gaps

OPERAND = [("place", "<i8"), ("outer", "<i8"), ("inner", "<i8")]
INSTRUCTION = np.dtype(
    [
        *((name, "<i8") for name in ("op", "outer", "inner", "out")),
        *((name, OPERAND) for name in "abc"),
        ("p", "<f8"),
        ("table", "<u8"),
    ]
)
PORT = np.dtype([("place", "<i8"), ("size", "<i8"), ("integers", "<i8")])


class Unsupported(Exception):
    """The function does something that the instructions cannot say."""


class Program:
    """What `record` has written down."""

    def __init__(self, panel: int) -> None:
        self.panel = panel  # columns of a packed matrix that belong together
        self.rows: list[tuple[Any, ...]] = []
        self.ports: list[tuple[int, int, int]] = []
        self.kept: list[Tensor] = []  # tables that instructions have the addresses of
        self.constants: list[tuple[int, Tensor]] = []
        self.size = 0  # numbers in the array

    def array(self) -> Tensor:
        """Return a new array, with the constants in it."""
        array = torch.zeros(self.size)
        for place, values in self.constants:
            array[place : place + values.numel()] = values
        return array

    def instructions(self) -> NDArray[Any]:
        """Return the instructions as the kernel reads them."""
        return np.array(self.rows, dtype=INSTRUCTION)

    def reserve(self, shape: Sequence[int]) -> Places:
        """Return places for a new tensor."""
        count = int(np.prod(shape, dtype=np.int64))
        places = torch.arange(self.size, self.size + count).reshape(tuple(shape))
        self.size += count
        return places

    def constant(self, values: Tensor) -> Places:
        """Return places for a constant."""
        if values.is_complex():
            return self.constant(torch.view_as_real(values.resolve_conj()))[..., 0]
        if not values.is_floating_point() and values.numel() and int(values.abs().max()) >= LARGEST_INTEGER:
            raise Unsupported("a number is too large")
        places = self.reserve(values.shape)
        self.constants.append((int(places.min()) if places.numel() else 0, values.detach().float().flatten()))
        return places

    def keep(self, table: Tensor) -> int:
        """Return the address of a table, which stays where it is."""
        self.kept.append(table)
        return table.data_ptr()

    def emit(
        self,
        op: str,
        outer: int,
        inner: int,
        out: int,
        *operands: tuple[int, int, int],
        p: float = 0.0,
        table: int = 0,
    ) -> None:
        """Append an instruction; operands are places with their two strides."""
        filled = (*operands, *((0, 0, 0),) * (3 - len(operands)))
        self.rows.append((OPCODES.index(op), outer, inner, out, *filled, p, table))

    def together(self, places: Places) -> int:
        """Return the place of the first element, after which the others follow; gathered first if they do not."""
        flat = places.reshape(-1)
        if _pattern(flat, 1) == (0, 1):
            return int(flat[0]) if len(flat) else 0
        return int(self.copied(places).reshape(-1)[0])

    def copied(self, places: Places) -> Places:
        """Return new places, one after the other, with the same values."""
        out = self.reserve(places.shape)
        if out.numel() == 0:
            return out
        place, flat = int(out.reshape(-1)[0]), places.reshape(-1)
        if found := self._common([places], out.shape):
            outer, inner, (operand,) = found
            self.emit("copy", outer, inner, place, operand)
        else:
            self.emit("gather", 1, len(flat), place, table=self.keep(flat.to(torch.int32)))
        return out

    def elementwise(self, op: str, places: Sequence[Places], p: float = 0.0) -> Places:
        """Apply an operation to operands that are broadcast together."""
        operands = torch.broadcast_tensors(*places)
        out = self.reserve(operands[0].shape)
        if out.numel() == 0:
            return out
        found = self._common(operands, out.shape)
        if found is None:
            count = out.numel()
            found = 1, count, [(self.together(each), 0, 1) for each in operands]
        outer, inner, strides = found
        self.emit(op, outer, inner, int(out.reshape(-1)[0]), *strides, p=p)
        return out

    def assign(self, places: Places, values: Places) -> None:
        """Write values where another tensor is."""
        flat, source = places.reshape(-1), self.together(values.broadcast_to(places.shape))
        if _pattern(flat, 1) == (0, 1):
            self.emit("copy", 1, len(flat), int(flat[0]), (source, 0, 1))
        else:
            self.emit("scatter", 1, len(flat), 0, (source, 0, 1), table=self.keep(flat.to(torch.int32)))

    def _common(
        self, operands: Sequence[Places], shape: Sequence[int]
    ) -> tuple[int, int, list[tuple[int, int, int]]] | None:
        """Return a shape (outer, inner) in which each operand has two strides, with these; None if there is none."""
        total = int(np.prod(shape, dtype=np.int64))
        inner = 1
        inners = {total}
        for size in reversed(operands[0].shape):
            inner *= size
            inners.add(inner)
        for inner in sorted(inners, reverse=True):
            strides = []
            for each in operands:
                flat = each.reshape(-1)
                found = _pattern(flat, total // inner)
                if found is None:
                    break
                strides.append((int(flat[0]), *found))
            else:
                return total // inner, inner, strides
        return None


def _pattern(flat: Places, outer: int) -> tuple[int, int] | None:
    """Return the strides of places that are regular in `outer` rows, or None."""
    if len(flat) <= 1:
        return 0, 1
    grid = flat.view(outer, -1)
    step = int(grid[0, 1] - grid[0, 0]) if grid.shape[1] > 1 else 1
    row = int(grid[1, 0] - grid[0, 0]) if outer > 1 else 0
    expected = grid[0, 0] + row * torch.arange(outer).unsqueeze(1) + step * torch.arange(grid.shape[1])
    return (row, step) if torch.equal(grid, expected) else None


def record(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], panel: int) -> Program:
    """Call a function once, and return the program that computes what it returns.

    Args:
        function: from tensors to tensors, float32, complex64 or int64, of one row (first dimension 1).
        inputs: examples; what is written down does not depend on their values.
        panel: columns of a packed matrix that belong together.

    Raises:
        Unsupported: the function does something that a program cannot.
    """
    program = Program(panel)
    recorder = _Recorder(program)
    for each in inputs:
        recorder.know(each, _port(program, each, None))
    with torch.no_grad(), recorder:
        results = function(*inputs)
    for each in results:
        _port(program, each, recorder.places(each))
    return program


def _port(program: Program, example: Tensor, places: Places | None) -> Places:
    """Add an input, or an output with these places; return where it is."""
    if example.dtype not in (torch.float32, torch.complex64, torch.int64):
        raise Unsupported(f"a tensor is {example.dtype}")
    parts = (2,) if example.is_complex() else ()
    if places is None:
        places = program.reserve((*example.shape, *parts))
        first = int(places.min())
        places = places[..., 0] if parts else places
    else:
        first = program.together(torch.stack([places, places + 1], dim=-1) if parts else places)
    program.ports.append((first, example.numel() * (2 if parts else 1), int(example.dtype == torch.int64)))
    return places


class _Recorder(TorchDispatchMode):
    """Writes down what is done to known tensors, and lets torch do it."""

    def __init__(self, program: Program) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.program = program
        # By identity, with the tensor, so that no identity is used again.
        self._known: dict[int, tuple[Tensor, Places]] = {}
        self._constants: dict[int, tuple[Tensor, Places]] = {}

    def know(self, tensor: Tensor, places: Places) -> None:
        """Remember where a tensor is."""
        self._known[id(tensor)] = tensor, places

    def knows(self, tensor: Any) -> bool:
        """Return whether a tensor depends on the inputs."""
        return id(tensor) in self._known

    def places(self, tensor: Any) -> Places:
        """Return where a tensor, a constant or a number is."""
        found = self._known.get(id(tensor)) or self._constants.get(id(tensor))
        if found is not None:
            return found[1]
        if not isinstance(tensor, Tensor):
            return self.program.constant(torch.tensor(float(tensor)))
        places = self.program.constant(tensor)
        self._constants[id(tensor)] = tensor, places
        return places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operands = [each for arg in args for each in (arg if isinstance(arg, list | tuple) else [arg])]
        name = func.overloadpacket.__name__
        if name in FACTORIES or not any(map(self.knows, operands)):
            return result
        changes = func._schema.is_mutable
        with _disable_current_modes():
            found = self._written(name.rstrip("_") if changes else name, args, kwargs, result)
            if changes and not self.knows(args[0]):
                raise Unsupported("a constant is changed")
            if changes and name != "transpose_":
                self.program.assign(self.places(args[0]), found)
            else:
                outputs = result if isinstance(result, list | tuple) else [result]
                for tensor, places in zip(outputs, found if isinstance(found, list) else [found], strict=False):
                    self.know(tensor, places)
        return result

    def _written(self, name: str, args: Any, kwargs: Any, result: Any) -> Any:
        """Write an operation down; return where its results are, a list if there are several."""
        if name in VIEWS:
            view = getattr(torch.ops.aten, "reshape" if name in ("view", "_unsafe_view") else name)
            viewed = view(self.places(args[0]), *args[1:], **kwargs)
            return list(viewed) if isinstance(viewed, list | tuple) else viewed
        if name == "clone":
            return self._copied(self.places(args[0]), result)
        if name in ("cat", "stack"):
            joined: Places = getattr(torch, name)([self.places(each) for each in args[0]], *args[1:], **kwargs)
            return self._copied(joined, result) if len(args[0]) > 1 else joined
        if name == "view_as_real":
            real = self.places(args[0])
            return torch.stack([real, real + 1], dim=-1)
        if name == "view_as_complex":
            real, imaginary = self.places(args[0]).unbind(-1)
            if not torch.equal(real + 1, imaginary):
                raise Unsupported("complex numbers in two places")
            return real
        if name == "embedding":
            return self._looked_up(args[0], self.places(args[1]), result)
        if name in ("mm", "addmm", "bmm"):
            return self._product(name, args, result)
        if name == "convolution":
            return self._convolved(args, result)
        if isinstance(result, Tensor) and result.is_complex():
            return self._complex(name, args)
        return self._arithmetic(name, args, kwargs, result)

    def _copied(self, places: Places, result: Tensor) -> Places:
        if result.is_complex():
            return self.program.copied(torch.stack([places, places + 1], dim=-1))[..., 0]
        return self.program.copied(places)

    def _arithmetic(self, name: str, args: Any, kwargs: Any, result: Any) -> Any:
        program, x = self.program, self.places(args[0])
        if name in BINARY or name == "rsub":
            if len(args) > 2 or kwargs:
                raise Unsupported(f"{name} with a factor")
            operands = [x, self.places(args[1])]
            return program.elementwise(*(("sub", operands[::-1]) if name == "rsub" else (name, operands)))
        if name in UNARY and all(each == 1 for each in args[1:]) and not kwargs:  # 1 is every default
            return program.elementwise(name, [x])
        if name == "clamp_min":
            return program.elementwise(name, [x], p=float(args[1]))
        if name == "pow" and args[1] == 2:
            return program.elementwise("mul", [x, x])
        if name == "addcmul" and not kwargs:
            return program.elementwise("add", [x, program.elementwise("mul", [self.places(each) for each in args[1:]])])
        if name == "sum" and len(args) > 1:
            return self._reduced("sum", x, args[1], result)
        if name == "linalg_vector_norm" and args[1] == 2 and len(args) > 2:
            return self._reduced("norm", x, args[2], result)
        if name == "native_layer_norm" and len(args[1]) == 1:
            return [self._normalised(x, args)]
        raise Unsupported(f"{name} is not known")

    def _looked_up(self, table: Tensor, rows: Places, result: Tensor) -> Places:
        """Write down rows of a constant table, which stays where it is."""
        if self.knows(table) or len(table) >= LARGEST_INTEGER:
            raise Unsupported("a table that is not constant, or too long")
        out = self.program.reserve(result.shape)
        address = self.program.keep(table.detach().contiguous())
        operands = (self.program.together(rows), 0, 1), (len(table), 0, 0)
        self.program.emit("embed", rows.numel(), table.shape[1], int(out.min()), *operands, table=address)
        return out

    def _complex(self, name: str, args: Any) -> Places:
        places = [self.places(each) for each in args[:2]]
        parts = [torch.stack([each, each + 1], dim=-1) for each in torch.broadcast_tensors(*places)]
        if name == "add" and len(args) == 2:
            return self.program.elementwise("add", parts)[..., 0]
        if name != "mul":
            raise Unsupported(f"{name} of complex numbers")
        out = self.program.reserve(parts[0].shape)
        first, second = (self.program.together(each) for each in parts)
        count = out.numel() // 2
        self.program.emit("complex_mul", 1, count, int(out.min()), (first, 0, 1), (second, 0, 1))
        return out[..., 0]

    def _reduced(self, op: str, places: Places, dims: Sequence[int], result: Tensor) -> Places:
        if len(dims) != 1:
            raise Unsupported(f"{op} over several dimensions")
        moved = places.movedim(dims[0], -1)
        inner = moved.shape[-1]
        outer = moved.numel() // inner
        first, strides = int(moved.reshape(-1)[0]), _pattern(moved.reshape(-1), outer)
        if strides is None:
            first, strides = self.program.together(moved), (inner, 1)
        out = self.program.reserve(result.shape)
        self.program.emit(op, outer, inner, int(out.min()), (first, *strides))
        return out

    def _normalised(self, x: Places, args: Any) -> Places:
        inner = x.shape[-1]
        weight = torch.ones(inner) if args[2] is None else args[2]
        bias = torch.zeros(inner) if args[3] is None else args[3]
        first, weight, bias = (self.program.together(each) for each in (x, self.places(weight), self.places(bias)))
        out = self.program.reserve(x.shape)
        operands = (first, inner, 1), (weight, 0, 1), (bias, 0, 1)
        self.program.emit("layer_norm", x.numel() // inner, inner, int(out.min()), *operands, p=float(args[4]))
        return out

    def _convolved(self, args: Any, result: Tensor) -> Places:
        x, weight, bias, stride, padding, dilation, transposed, _, groups = args
        plain = not transposed and groups == 1 and (padding, stride, dilation) == ([0], [1], [1])
        if not plain or x.shape[2] != weight.shape[2] or self.knows(weight):
            raise Unsupported("a convolution with more than one result")
        row = self.places(x).reshape(1, -1)
        return self._by_constant(row, weight.flatten(1).t(), bias).reshape(result.shape)

    def _product(self, name: str, args: Any, result: Tensor) -> Places:
        """Write a product down: with a constant matrix, or of two tensors that are none."""
        if len(args) > 3:
            raise Unsupported(f"{name} with factors")
        bias, first, second = args if name == "addmm" else (None, *args)
        left = self.places(first)
        if second.dim() == 2 and not self.knows(second):
            return self._by_constant(left, second, bias)
        if bias is not None:
            raise Unsupported("a sum with a product of two states")
        out = self.program.reserve(result.shape)
        outer = left.shape[0] if name == "bmm" else 1
        M, K, N = left.shape[-2], left.shape[-1], result.shape[-1]
        operands = (self.program.together(left), 0, 1), (self.program.together(self.places(second)), 0, 1), (M, K, 0)
        self.program.emit("matmul", outer, N, int(out.min()), *operands)
        return out

    def _by_constant(self, left: Places, matrix: Tensor, bias: Tensor | None) -> Places:
        """Write down left (M, K) times a constant matrix (K, N), which is packed, plus a bias (N,)."""
        if self.knows(bias):
            raise Unsupported("a bias that is not a constant")
        K, N = matrix.shape
        panel = self.program.panel
        filled = (0, -N % panel)
        packed = F.pad(matrix.detach(), filled).unflatten(1, (-1, panel)).transpose(0, 1).contiguous()
        constant = self.program.constant(F.pad(torch.zeros(N) if bias is None else bias.detach(), filled))
        out = self.program.reserve((left.shape[0], N))
        operands = (self.program.together(left), K, 1), (K, 0, 0), (self.program.together(constant), 0, 1)
        table = self.program.keep(packed)
        self.program.emit("product", left.shape[0], N, int(out.min()), *operands, table=table)
        return out
