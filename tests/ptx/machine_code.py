"""Read what ptxas made of the CUDA kernels: registers, spills, and how many loads are under way at a time.

`python -m tests.ptx.machine_code` prints the table of kernels/README.md, `--write` puts it there.

A loop's steady pass is the longest path through it that neither leaves nor calls. What is in flight is what a thread
has asked memory for when it first uses something that it asked for in the same pass.
"""

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from seqbench import paths
from seqbench.ops.cuda import cutting, linear_cross_entropy, nvrtc, selective_scan
from tests.ptx import machine

ARCH = "sm_90"
# Of a multiprocessor of sm_90 ("CUDA C++ Programming Guide", compute capabilities).
REGISTERS = 65536
WARPS = 64
BLOCKS = 32
SHARED = 228 * 1024
SHARED_OF_A_BLOCK = 1024  # that the system takes
ALLOCATION = 256  # registers are given to warps in multiples of this

# Where the table stands in kernels/README.md, and what it shows.
BEGIN, END = "<!-- made by python -m tests.ptx.machine_code --write -->", "<!-- end -->"
ELEMENTS = {
    "linear_scan": ("float32", "bfloat16", "complex64"),
    "rg_lru": ("float32", "bfloat16"),
    "selective_scan": ("float32", "bfloat16"),
    "linear_cross_entropy": ("float32", "bfloat16"),
}
LEAST_LOADS = 6  # of a loop that reads several steps at a time

INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]+)\*/\s+(@!?U?P\w+)?\s*(\S+)\s*(.*?);")
LABEL = re.compile(r"(\.L_x_\d+|\$\S+):")
STORES = ("STG", "STS", "ISETP", "FSETP", "DSETP")  # whose first operand is not a result


@dataclass(frozen=True)
class Instruction:
    guard: str
    opcode: str
    operands: str

    @property
    def kind(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def bytes(self) -> int:
        """Return how much a load reads."""
        for suffix, size in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1)):
            if suffix in self.opcode:
                return size
        return 4

    @property
    def registers(self) -> list[int]:
        return [int(number) for number in re.findall(r"\bR(\d+)\b", self.operands)]


@dataclass(frozen=True)
class Loop:
    """An innermost loop that loads: instructions of its steady pass, and what is in flight at the first use."""

    instructions: int
    loads: int
    in_flight: int
    bytes_in_flight: int


@dataclass(frozen=True)
class Code:
    """A kernel's machine code."""

    registers: int
    stack: int
    shared: int
    local: int
    instructions: int
    loops: list[Loop]

    def resident_warps(self, block: int) -> int:
        """Return how many warps fit on a multiprocessor in blocks of so many threads."""
        warps = block // 32
        allocated = -(-self.registers * 32 // ALLOCATION) * ALLOCATION * warps
        fitting = [REGISTERS // allocated, WARPS // warps, BLOCKS]
        if self.shared:
            fitting.append(SHARED // (self.shared + SHARED_OF_A_BLOCK))
        return min(fitting) * warps


@cache
def tool(name: str) -> str | None:
    """Return where cuobjdump or nvdisasm is, of a toolkit or of its package on PyPI."""
    package = find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        for path in Path(folder).glob(f"cu*/bin/{name}"):
            return str(path)
    return shutil.which(name)


def need() -> None:
    """Skip the test without NVRTC and the readers of machine code."""
    machine.need()
    for name in ("cuobjdump", "nvdisasm"):
        if tool(name) is None:
            pytest.skip(f"no {name}; pip install nvidia-cuda-{name}")


def cubin(source: str, element: str, arch: str = ARCH) -> Path:
    """Return the machine code of kernels/<source>.cu for one element type, compiled by the project's own function."""
    path = paths.shipped("kernels") / f"{source}.cu"
    texts = [part.read_text(encoding="utf-8") for part in (path, *sorted(path.parent.glob("*.cuh")))]
    target = machine.cached(f"{source}-{element}-{arch}.cubin", *texts, element, arch, machine.nvrtc_version())
    if not target.exists():
        machine.keep(target, nvrtc.compile_source(path, element, arch))
    return target


@cache
def read(source: str, element: str, arch: str = ARCH) -> dict[str, Code]:
    """Return the machine code of a source's kernels by name, without the element type."""
    path = cubin(source, element, arch)
    usage = _output("cuobjdump", "-res-usage", str(path))
    listing = dict(_listing(_output("nvdisasm", "-c", str(path))))
    found = {}
    for name, line in re.findall(r"Function (\w+):\s*\n\s*(.*)", usage):
        registers, stack, shared, local = (
            int(re.search(rf"{key}:(\d+)", line)[1])  # type: ignore[index]
            for key in ("REG", "STACK", "SHARED", "LOCAL")
        )
        code = listing[name]
        instructions = [item for item in code if isinstance(item, Instruction)]
        kept = name.removesuffix(f"_{element}")
        # The system's own kilobyte is reported as the kernel's.
        shared = max(shared - SHARED_OF_A_BLOCK, 0)
        found[kept] = Code(registers, stack, shared, local, len(instructions), list(_loops(code)))
    return found


def _output(name: str, *arguments: str) -> str:
    command = tool(name)
    assert command is not None
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _listing(text: str) -> Iterator[tuple[str, list[Instruction | str]]]:
    """Yield kernels with their instructions and, as strings, labels."""
    code: list[Instruction | str] = []
    for line in text.splitlines():
        if match := re.match(r"\.text\.(\w+):", line):
            code = []
            yield match[1], code
        elif match := LABEL.match(line.strip()):
            code.append(match[1])
        elif match := INSTRUCTION.match(line):
            code.append(Instruction(match[2] or "", match[3], match[4]))


def _loops(code: list[Instruction | str]) -> Iterator[Loop]:
    """Yield the innermost loops that load, in the order of the code."""
    instructions, at, pending = [], {}, []
    for item in code:
        if isinstance(item, str):
            pending.append(item)
            continue
        at.update(dict.fromkeys(pending, len(instructions)))
        pending = []
        instructions.append(item)
    successors = []
    for index, item in enumerate(instructions):
        following = []
        if item.kind == "BRA":
            match = re.search(r"`\((\S+)\)", item.operands)
            if match and match[1] in at:
                following.append(at[match[1]])
            if item.guard or "P" in item.operands.partition("`")[0]:
                following.append(index + 1)
        elif item.kind not in ("EXIT", "RET") or item.guard:
            following.append(index + 1)
        successors.append([target for target in following if target < len(instructions)])
    edges = {(head, tail) for tail in range(len(instructions)) for head in successors[tail] if tail - head >= 8}
    found = []
    for head, tail in sorted(edges):
        path = _steady(instructions, successors, head, tail)
        if path and any(instructions[index].kind == "LDG" for index in path):
            found.append((head, tail, path))
    for head, tail, path in found:
        inner = [(h, t) for h, t, _ in found if (h, t) != (head, tail) and head <= h and t <= tail]
        if not inner:
            yield _loop([instructions[index] for index in path])


def _steady(instructions: list[Instruction], successors: list[list[int]], head: int, tail: int) -> list[int]:
    """Return the path from head to tail that does most, by a weight for each instruction."""
    best: dict[int, tuple[float, int | None]] = {}
    for index in range(tail, head - 1, -1):
        weight = _weight(instructions[index])
        if index == tail:
            best[index] = (weight, None)
        for following in successors[index]:
            if index < following <= tail and following in best:
                reached = weight + best[following][0]
                if index not in best or reached > best[index][0]:
                    best[index] = (reached, following)
    path, index = [], head if head in best else None
    while index is not None:
        path.append(index)
        index = best[index][1]
    return path


def _weight(item: Instruction) -> float:
    if item.kind in ("LDG", "STG", "LDS", "STS"):
        return 1
    if item.kind in ("CALL", "RET", "EXIT"):
        return -1000
    if item.kind in ("FFMA", "DFMA", "MUFU", "SHFL"):
        return 0.2
    return {"BRA": -1.5, "BSSY": -0.3}.get(item.kind, 0)


def _loop(path: list[Instruction]) -> Loop:
    loads = sum(item.kind == "LDG" for item in path)
    asked: set[int] = set()
    count = size = 0
    for item in path:
        registers = item.registers
        read = registers if item.kind in STORES else registers[1:]
        if asked & set(read):
            break
        if item.kind == "LDG":
            asked |= set(range(registers[0], registers[0] + max(item.bytes // 4, 1)))
            count += 1
            size += item.bytes
    return Loop(len(path), loads, count, size)


def block_of(kernel: str) -> int:
    """Return the threads of a block that the launching code starts a kernel with."""
    if kernel.startswith(linear_cross_entropy.SOURCE):
        return linear_cross_entropy.BLOCK
    if kernel.startswith(selective_scan.SOURCE):
        return selective_scan.block_of(kernel.removeprefix("selective_scan_"))
    return cutting.BLOCK


def table() -> str:
    """Return the table of kernels/README.md, for sm_90."""
    lines = [
        "| kernel | element | registers | warps that fit | instructions of a pass | loads under way, bytes |",
        "|---|---|---|---|---|---|",
    ]
    for source, elements in ELEMENTS.items():
        for element in elements:
            for name, code in sorted(read(source, element).items()):
                passes = [loop for loop in code.loops if loop.loads >= LEAST_LOADS]
                instructions = " + ".join(str(loop.instructions) for loop in passes)
                under_way = " + ".join(f"{loop.in_flight} of {loop.loads}, {loop.bytes_in_flight}" for loop in passes)
                warps = code.resident_warps(block_of(name))
                lines.append(f"| `{name}` | {element} | {code.registers} | {warps} | {instructions} | {under_way} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what ptxas makes of the CUDA kernels.")
    parser.add_argument("--write", action="store_true", help="put the table into kernels/README.md")
    if not parser.parse_args().write:
        print(table())
        return
    readme = paths.shipped("kernels") / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
