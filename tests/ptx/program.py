"""Read PTX, the assembly language that NVRTC makes of a CUDA source, into what `machine.cpp` runs."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

WARP = 32
WIDTHS = {"pred": 1, "b16": 2, "u16": 2, "s16": 2, "b32": 4, "u32": 4, "s32": 4, "f32": 4, "b64": 8, "u64": 8, "f64": 8}
SPECIAL = ("%tid.x", "%ctaid.x", "%ntid.x")
ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)\s*((?:\.\w+[^\n]*\n)*)\{\n(.*?)\n\}", re.DOTALL)
INSTRUCTION = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.]*)\s*(.*);$")
# As `Instruction` in machine.cpp.
RECORD = np.dtype(
    [
        *(("operation", "<i4"), ("guard", "<i4"), ("negated", "<i4")),
        *(("operands", "<i4", 6), ("line", "<i4"), ("immediate", "<i8")),
    ],
    align=True,
)


@dataclass
class Kernel:
    """One kernel, decoded.

    `lines` are its body's, `line` of an instruction counts them from 1. `registers` are a warp's when it starts: every
    register and constant has a value for each lane, and those of registers are all ones.
    """

    name: str
    lines: list[str]
    parameters: list[str]
    largest_block: int
    shared_size: int = 0
    instructions: np.ndarray = field(default_factory=lambda: np.zeros(0, RECORD))
    registers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    special: tuple[int, ...] = ()


class _Layout:
    """Where registers and constants lie in a warp's memory."""

    def __init__(self) -> None:
        self.size = 0
        self.widths: dict[str, int] = {}
        self.offsets: dict[str, int] = {}
        self.constants: dict[tuple[int, int], int] = {}
        self.symbols: dict[str, int] = {}

    def add(self, name: str, width: int) -> int:
        offset = self.size
        self.offsets[name], self.widths[name] = offset, width
        self.size += WARP * width
        return offset

    def constant(self, value: int, width: int) -> int:
        value &= (1 << 8 * width) - 1
        if (value, width) not in self.constants:
            self.constants[value, width] = self.size
            self.size += WARP * width
        return self.constants[value, width]

    def place(self, operand: str, width: int) -> int:
        """Return the offset of an operand of that many bytes, which a constant is given here."""
        if operand == "_":  # a result that nothing reads
            name = f"_{width}"
            return self.offsets[name] if name in self.offsets else self.add(name, width)
        if operand in self.offsets:
            if self.widths[operand] != width:
                raise SyntaxError(f"{operand} has {self.widths[operand]} bytes, not {width}")
            return self.offsets[operand]
        if match := re.fullmatch(r"0f([0-9A-Fa-f]{8})|0d([0-9A-Fa-f]{16})", operand):
            return self.constant(int(match[1] or match[2], 16), width)
        if re.fullmatch(r"-?\d+", operand):
            return self.constant(int(operand), width)
        if operand in self.symbols:
            return self.constant(self.symbols[operand], width)
        raise SyntaxError(f"operand {operand}")

    def image(self) -> np.ndarray:
        memory = np.full(self.size, 0xFF, np.uint8)
        for (value, width), offset in self.constants.items():
            data = struct.pack("<Q", value)[:width] * WARP
            memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        return memory


def kernels(ptx: str, operations: dict[str, tuple[int, str]]) -> dict[str, Kernel]:
    """Decode all kernels of a PTX module, by name.

    Args:
        ptx: the text.
        operations: opcode → (its index, the bytes of its operands as digits), as machine.cpp has them.

    Raises:
        SyntaxError: an instruction or operand that the machine does not know.
    """
    found = {}
    for name, parameters, directives, body in ENTRY.findall(ptx):
        largest = re.search(r"\.maxntid (\d+)", directives)
        names = re.findall(r"\.param \.[bu]64 (?:\.ptr (?:\.\w+ )?\.align \d+ )?(\w+)", parameters)
        if len(names) != parameters.count(".param"):
            raise SyntaxError(f"{name}: a parameter that is not of 64 bits")
        found[name] = decode(Kernel(name, body.split("\n"), names, int(largest[1]) if largest else 1024), operations)
    return found


def decode(kernel: Kernel, operations: dict[str, tuple[int, str]]) -> Kernel:
    """Fill in, and return, what follows from the kernel's lines."""
    layout, body = _Layout(), "\n".join(kernel.lines)
    kernel.special = tuple(layout.add(name, 4) for name in SPECIAL)
    for kind, prefix, count in re.findall(r"\.reg \.(\w+)\s+(%\w+)<(\d+)>", body):
        for index in range(int(count)):
            layout.add(f"{prefix}{index}", WIDTHS[kind])
    kernel.shared_size = 0
    for alignment, symbol, size in re.findall(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];", body):
        kernel.shared_size += -kernel.shared_size % int(alignment)
        layout.symbols[symbol] = kernel.shared_size
        kernel.shared_size += int(size)
    labels: dict[str, int] = {}
    records: list[tuple[int, int, bool, list[int], int, int]] = []
    branches: list[tuple[int, str]] = []
    for line, label, match in _statements(kernel.lines):
        if match is None:
            labels[label] = len(records)
            continue
        negated, guard, opcode, arguments = match.groups()
        predicate = layout.place(guard, 1) if guard else -1
        if opcode in ("bra", "bra.uni"):
            branches.append((len(records), arguments.strip()))
            opcode, arguments = "bra", ""
        try:
            for operation, places, immediate in _encode(opcode, list(_split(arguments)), layout, kernel, operations):
                records.append((operation, predicate, bool(negated), places, line, immediate))
        except (SyntaxError, KeyError) as error:
            raise SyntaxError(f"{kernel.name}, line {line}: {kernel.lines[line - 1].strip()}: {error}") from error
    kernel.instructions, kernel.registers = np.array(records, RECORD), layout.image()
    for index, label in branches:
        kernel.instructions[index]["immediate"] = labels[label]
    return kernel


def _statements(lines: list[str]) -> Iterator[tuple[int, str, re.Match[str] | None]]:
    """Yield number, label and instruction of each line that has either."""
    for number, line in enumerate(lines, 1):
        text = line.partition("//")[0].strip().replace("%temp", "_")
        if not text or text[0] in ".{}":
            continue
        if text.endswith(":"):
            yield number, text[:-1], None
        elif match := INSTRUCTION.fullmatch(text):
            yield number, "", match
        else:
            raise SyntaxError(f"line {number}: {line}")


def _split(arguments: str) -> Iterator[str]:
    """Yield the operands; a vector in braces is one of them."""
    depth, current = 0, ""
    for character in arguments:
        depth += (character in "{[") - (character in "}]")
        if character == "," and not depth:
            yield current.strip()
            current = ""
        else:
            current += character
    if current.strip():
        yield current.strip()


def _encode(
    opcode: str, arguments: list[str], layout: _Layout, kernel: Kernel, operations: dict[str, tuple[int, str]]
) -> Iterator[tuple[int, list[int], int]]:
    """Yield (operation, offsets of its operands, immediate) for an instruction, or for a few that stand for it."""
    if opcode.startswith("ld.param"):
        index, widths = operations[opcode]
        yield index, [layout.place(arguments[0], int(widths)), *[0] * 5], kernel.parameters.index(arguments[1][1:-1])
        return
    if opcode.startswith("mov.b") and "{" in arguments[0] + arguments[1]:
        opcode = opcode.replace("mov", "unpack" if arguments[0].startswith("{") else "pack")
    if opcode.startswith("shfl") and "|" not in arguments[0]:
        arguments[0] += "|_"
    operands = [part.strip() for argument in arguments for part in re.split(r"[,|]", argument.strip("{}"))]
    immediate = 0
    for position, operand in enumerate(operands):
        if operand.startswith("["):
            match = re.fullmatch(r"\[(.+?)(?:\+(-?\d+))?\]", operand)
            assert match
            operands[position], immediate = match[1], int(match[2] or 0)
    index, widths = operations[opcode]
    if len(operands) != len(widths):
        raise SyntaxError(f"{opcode} has {len(widths)} operands, not {len(operands)}")
    # A register may be wider than what is stored from it, converted from it or loaded to it.
    after = []
    for position, (operand, digit) in enumerate(zip(operands, widths, strict=True)):
        width, wide = int(digit), layout.widths.get(operand, 0)
        if wide <= width or opcode[:2] not in ("ld", "st", "cv") or operand == "_":
            continue
        narrow = f"{position}:{width}"
        if narrow not in layout.offsets:
            layout.add(narrow, width)
        operands[position] = narrow
        if opcode.startswith("ld."):
            widening, _ = operations[f"cvt.u{8 * wide}.u{8 * width}"]
            after.append((widening, [layout.place(operand, wide), layout.place(narrow, width), *[0] * 4], 0))
        else:
            narrowing, _ = operations[f"cvt.u{8 * width}.u{8 * wide}"]
            yield narrowing, [layout.place(narrow, width), layout.place(operand, wide), *[0] * 4], 0
    places = [layout.place(operand, int(width)) for operand, width in zip(operands, widths, strict=True)]
    yield index, places + [0] * (6 - len(places)), immediate
    yield from after
