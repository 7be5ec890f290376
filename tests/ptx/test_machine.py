"""The machine that runs PTX does what the instruction set says, and finds what a kernel must not do."""

import struct

import pytest
import torch

from tests.ptx import machine
from tests.ptx.program import Kernel, kernels

HEAD = """
.visible .entry small(
	.param .u64 small_param_0,
	.param .u64 small_param_1
)
.maxntid 64
{
	.reg .pred %p<9>;
	.reg .b16 %rs<9>;
	.reg .b32 %r<20>;
	.reg .f32 %f<9>;
	.reg .b64 %rd<20>;
	.reg .f64 %fd<9>;
	ld.param.u64 %rd1, [small_param_0];
	ld.param.u64 %rd2, [small_param_1];
	mov.u32 %r1, %tid.x;
	mov.u32 %r2, %ctaid.x;
	mov.u32 %r3, %ntid.x;
	mul.wide.u32 %rd3, %r1, 4;
	add.s64 %rd4, %rd1, %rd3;
"""


@pytest.fixture(autouse=True)
def _machine() -> None:
    machine.need()


def program(body: str) -> Kernel:
    return kernels(f"{HEAD}{body}\n\tret;\n\n}}\n", machine.operations())["small"]


def results(body: str, dtype: torch.dtype = torch.int32, block: int = 32) -> list[float]:
    """What the threads of one block store at %rd4, four bytes each."""
    out = torch.zeros(block, dtype=dtype)
    machine.run(program(body), 1, block, [out, None])
    return out.tolist()


def as_float(value: float) -> str:
    return f"0f{struct.pack('>f', value).hex()}"


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("shl.b32 %r5, 1, 31;", -(2**31)),
        ("shl.b32 %r5, 1, 32;", 0),
        ("shr.s32 %r5, -8, 40;", -1),
        ("shr.u32 %r5, -8, 28;", 15),
        ("min.s32 %r5, -1, 1;", -1),
        ("div.s32 %r5, -7, 2;", -3),
        ("cvt.u16.u32 %rs1, 70000; cvt.u32.u16 %r5, %rs1;", 4464),
        ("mov.b64 %rd9, {7, 9}; mov.b64 {_, %r5}, %rd9;", 9),
        ("bfi.b64 %rd9, 3, 0, 4, 8; cvt.u32.u64 %r5, %rd9;", 48),
        ("setp.lt.u32 %p1, 1, -1; selp.b32 %r5, 3, 4, %p1;", 3),
        ("setp.lt.s32 %p1, 1, -1; selp.b32 %r5, 3, 4, %p1;", 4),
        ("mov.f32 %f1, 0f7FC00000; setp.gt.f32 %p1, %f1, %f1; selp.b32 %r5, 3, 4, %p1;", 4),
        ("mov.f32 %f1, 0f7FC00000; setp.gtu.f32 %p1, %f1, %f1; selp.b32 %r5, 3, 4, %p1;", 3),
        ("mov.f32 %f1, 0f7FC00000; setp.ne.f32 %p1, %f1, %f1; selp.b32 %r5, 3, 4, %p1;", 4),
        ("mov.f32 %f1, 0f7FC00000; setp.neu.f32 %p1, %f1, %f1; selp.b32 %r5, 3, 4, %p1;", 3),
        ("mov.b32 %r5, 1; @!%p0 mov.b32 %r5, 2;", 1),  # a register that nothing was written to is all ones
    ],
)
def test_an_instruction_does_what_the_manual_says(instruction: str, expected: int) -> None:
    lines = instruction.replace("; ", ";\n\t")
    assert results(f"\t{lines}\n\tst.global.u32 [%rd4], %r5;") == [expected] * 32


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        # One third of a unit in the last place is lost to the nearest, and upwards or downwards kept.
        (f"fma.rm.f32 %f1, {as_float(1)}, {as_float(1)}, {as_float(-(2.0**-30))};", 1 - 2.0**-24),
        (f"fma.rn.f32 %f1, {as_float(1)}, {as_float(1)}, {as_float(-(2.0**-30))};", 1.0),
        (f"add.rz.f32 %f1, {as_float(-1)}, {as_float(2.0**-30)};", -1 + 2.0**-24),
        (f"cvt.sat.f32.f32 %f1, {as_float(1.5)};", 1.0),
        ("cvt.sat.f32.f32 %f1, 0f7FC00000;", 0.0),
        (f"copysign.f32 %f1, {as_float(-1)}, {as_float(3)};", -3.0),
        (f"ex2.approx.ftz.f32 %f1, {as_float(-130)};", 0.0),
        (f"ex2.approx.f32 %f1, {as_float(-130)};", 2.0**-130),
        (f"cvt.rn.f16.f32 %rs1, {as_float(2049)};\n\tcvt.f32.f16 %f1, %rs1;", 2048.0),
    ],
)
def test_a_floating_point_instruction_rounds_as_the_manual_says(instruction: str, expected: float) -> None:
    assert results(f"\t{instruction}\n\tst.global.f32 [%rd4], %f1;", torch.float32) == [expected] * 32


def test_lanes_part_at_a_branch_and_come_together_at_a_shuffle() -> None:
    body = """
	mov.b32 %r5, 100;
	setp.lt.u32 %p1, %r1, 7;
	@%p1 bra $less;
	mov.b32 %r6, 0;
$again:
	add.s32 %r6, %r6, 1;
	add.s32 %r5, %r5, %r1;
	setp.lt.s32 %p2, %r6, %r1;
	@%p2 bra $again;
$less:
	shfl.sync.bfly.b32 %r7|%p3, %r5, 16, 31, -1;
	st.global.u32 [%rd4], %r7;"""
    value = [100 if lane < 7 else 100 + lane * lane for lane in range(32)]
    assert results(body) == [value[lane ^ 16] for lane in range(32)]


def test_shared_memory_is_a_block_s_own() -> None:
    body = """
	.shared .align 4 .b8 table[256];
	shl.b32 %r5, %r1, 2;
	mov.b32 %r6, table;
	add.s32 %r6, %r6, %r5;
	st.shared.u32 [%r6], %r1;
	ld.shared.b32 %r7, [%r6];
	st.global.u32 [%rd4], %r7;"""
    assert results(body, block=64) == list(range(64))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("st.global.u32 [%rd4+4], %r1;", "outside of every tensor"),
        ("ld.global.b32 %r5, [%rd2];", "outside of every tensor"),
        ("st.global.u32 [%rd4+2], %r1;", "misaligned"),
        ("ld.global.nc.v2.f32 {%f1, %f2}, [%rd4];", "misaligned"),
        ("st.global.u32 [%rd1], %r1;", "race: two threads store"),
        ("ld.global.b32 %r5, [%rd1]; st.global.u32 [%rd4], %r1;", "race: a store to what another thread loaded"),
        ("st.global.u32 [%rd4], %r1; ld.global.nc.b32 %r5, [%rd4];", "non-coherent load of what was stored"),
        ("$loop: bra.uni $loop;", "does not come to an end"),
        ("setp.lt.u32 %p1, %r1, 7; @%p1 ret; shfl.sync.bfly.b32 %r7|%p3, %r1, 16, 31, -1;", "wait at different"),
        ("shfl.sync.bfly.b32 %r7|%p3, %r1, %r1, 31, -1;", "lanes disagree"),
        ("ld.shared.b32 %r5, [%r1];", "shared memory"),
    ],
)
def test_what_a_kernel_must_not_do_is_found(body: str, what: str) -> None:
    lines = body.replace("; ", ";\n\t").replace(": ", ":\n\t")
    with pytest.raises(machine.EmulationError, match=f"{what}.*line"):
        machine.run(program(f"\t{lines}"), 1, 32, [torch.zeros(32, dtype=torch.int32), None], races=True, limit=1000)


def test_launches_that_do_not_fit_the_kernel_are_found() -> None:
    kernel = program("")
    with pytest.raises(machine.EmulationError, match="takes 2 arguments, got 1"):
        machine.run(kernel, 1, 32, [None])
    with pytest.raises(machine.EmulationError, match="up to 64 threads, got 96"):
        machine.run(kernel, 1, 96, [None, None])


def test_an_instruction_that_the_machine_does_not_know_is_an_error() -> None:
    with pytest.raises(SyntaxError, match=r"line \d+: tanh"):
        program("\ttanh.approx.f32 %f1, %f1;")


def test_traffic_is_counted() -> None:
    kernel, out = program("\tld.global.b32 %r5, [%rd4];\n\tst.global.u32 [%rd4], %r5;"), torch.zeros(64).int()
    run = machine.run(kernel, 1, 64, [out, None])
    assert (run.loaded, run.stored) == (256, 256)
    assert run.ran.all()
