"""Change single instructions of the compiled kernels and see whether the comparison with the reference notices.

    python -m tests.ptx.mutants --count 60 --seed 1

The comparison is the one of the default test suite. Only instructions that run in it are changed. A mutant that is not
noticed is printed, to be read: it may do the same as the kernel does, or show what the comparison lacks.
"""

import argparse
import random
import re
from collections.abc import Iterator

import torch

from seqbench.errors import SeqbenchError
from tests.ptx import machine
from tests.ptx.cases import OPERATORS, cases, looked_at_for_races, remainders
from tests.ptx.gpu import Emulation, emulated
from tests.ptx.machine import EmulationError
from tests.ptx.program import Kernel, decode

ELEMENT = "float32"
LIMIT = 1_000_000  # instructions of a warp
SWAPS = {
    **{"add.s64": "sub.s64", "sub.s64": "add.s64", "add.s32": "sub.s32", "sub.s32": "add.s32"},
    **{"add.f32": "sub.f32", "sub.f32": "add.f32", "add.f64": "sub.f64", "mul.f32": "add.f32", "neg.f32": "mov.f32"},
    **{"setp.lt.s32": "setp.le.s32", "setp.gt.s32": "setp.ge.s32", "setp.lt.s64": "setp.le.s64"},
    **{"setp.ge.s64": "setp.gt.s64", "setp.eq.s64": "setp.ne.s64", "setp.lt.f32": "setp.ge.f32"},
    **{"mul.lo.s64": "add.s64", "min.s64": "max.s64", "max.s64": "min.s64", "mad.lo.s64": "mad.lo.s64"},
}
LINE = re.compile(r"(\s*)(@!?%p\d+\s+)?([a-z][\w.]*)\s+(.*);.*")


def mutated(line: str) -> str | None:
    """Return the line with another instruction in its place, or None if no change to it is known."""
    match = LINE.fullmatch(line)
    if match is None:
        return None
    indent, guard, opcode, arguments = match[1], match[2] or "", match[3], match[4]
    operands = [operand.strip() for operand in arguments.split(",")]
    if opcode == "mad.lo.s64":
        return f"{indent}{guard}mul.lo.s64 {', '.join(operands[:3])};"
    if opcode in SWAPS:
        return f"{indent}{guard}{SWAPS[opcode]} {', '.join(operands)};"
    if opcode.startswith("fma.rn"):
        return f"{indent}{guard}mul.{opcode[-3:]} {', '.join(operands[:3])};"
    if opcode.startswith("selp"):
        return f"{indent}{guard}{opcode} {operands[0]}, {operands[2]}, {operands[1]}, {operands[3]};"
    if opcode == "bra" and guard:
        inverted = guard.replace("@!", "@") if guard.startswith("@!") else guard.replace("@", "@!")
        return f"{indent}{inverted}bra {arguments};"
    if opcode.startswith("shfl"):
        return f"{indent}{opcode} {operands[0]}, {operands[1]}, 1, {operands[3]}, {operands[4]};"
    return None


def does_the_same(lines: list[str], line: int) -> bool:
    """Return whether a changed instruction is known to make no difference.

    That is where the fast division of 32 bits is chosen, and where an exponential is split into two powers of two, of
    which the first may be any.
    """
    before, after = " ".join(lines[line - 2 : line]), lines[line + 1]
    return ("-4294967296" in before and lines[line].strip().startswith(("setp", "@"))) or "cvt.sat" in after


def compare(source: str, kernels: dict[str, Kernel]) -> Emulation:
    """Compare kernels with the reference, and return what ran.

    Raises:
        AssertionError: they do not do what the reference does.
        EmulationError: they do what they must not.
    """
    given = {(source, ELEMENT): kernels}
    emulation = Emulation(limit=LIMIT, kernels=given)
    for problems, how in (
        ([*cases(source), *remainders(source)], emulation),
        (looked_at_for_races(source), Emulation(limit=LIMIT, kernels=given, races=True)),
    ):
        for case in problems:
            with emulated(case.form, how):
                case.check(getattr(torch, ELEMENT))
    return emulation


def candidates(kernels: dict[str, Kernel], emulation: Emulation) -> Iterator[tuple[str, int]]:
    """Yield kernel and line (from 0) of the instructions that ran and can be changed."""
    for name, ran in emulation.ran.items():
        for line in sorted({int(line) - 1 for line in kernels[name].instructions["line"][ran != 0]}):
            lines = kernels[name].lines
            if mutated(lines[line]) is not None and not does_the_same(lines, line):
                yield name, line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="mutants of each source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", nargs="*", default=list(OPERATORS))
    options = parser.parse_args()
    if reason := machine.unavailable():
        raise SeqbenchError(reason)
    noticed = total = 0
    for source in options.sources:
        kernels = machine.module(source, ELEMENT)
        found = list(candidates(kernels, compare(source, kernels)))
        for name, line in random.Random(options.seed).sample(found, min(options.count, len(found))):
            kernel, change = kernels[name], mutated(kernels[name].lines[line])
            lines = [*kernel.lines[:line], change or "", *kernel.lines[line + 1 :]]
            mutant = decode(Kernel(kernel.name, lines, kernel.parameters, kernel.largest_block), machine.operations())
            total += 1
            try:
                compare(source, {**kernels, name: mutant})
            except (AssertionError, EmulationError):
                noticed += 1
            else:
                print(f"not noticed: {name}, line {line + 1}: {kernel.lines[line].strip()} -> {change}", flush=True)
        print(f"{source}: {noticed} of {total} noticed so far, {len(found)} instructions could be changed", flush=True)


if __name__ == "__main__":
    main()
