"""Compiling the C++ kernel, keeping it, and doing without; then what only the C++ scan promises: threads and bits."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import psutil
import pytest
import torch
from filelock import FileLock

from seqbench import paths
from seqbench.errors import UsageError
from seqbench.ops.backends import BACKENDS, resolve
from seqbench.ops.cpu import binding, linear_scan, native
from tests.kit import PATIENCE, ROOT, Bench
from tests.ops.opskit import assert_close, rotating

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A process that has compiled nothing yet, and a cache that holds nothing."""
    folder = tmp_path / "kernels"
    monkeypatch.setenv(paths.KERNEL_CACHE_VARIABLE, str(folder))
    native.load.cache_clear()
    yield folder
    native.load.cache_clear()


def compiler_that(path: Path, script: str) -> str:
    """An executable that stands for a C++ compiler; `$@` are its arguments."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def small_source(
    monkeypatch: pytest.MonkeyPatch, folder: Path, text: str = 'extern "C" int one() { return 1; }'
) -> None:
    """Kernels come from `folder`, where "small" is the only one."""
    (folder / "small.cpp").write_text(text)
    monkeypatch.setattr(paths, "shipped", lambda name: folder)


def test_without_a_compiler_auto_means_torch_and_a_named_backend_says_what_to_install(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolve("linear_scan", "auto", "cpu").name == "torch"
    with pytest.raises(UsageError, match=r"no C\+\+ compiler found .*apt install g\+\+"):
        resolve("linear_scan", "cpu", "cpu")
    listed = " ".join(bench.call("env").out.split())
    assert "no C++ compiler found" in listed
    assert "auto on cpu torch" in listed


def test_it_runs_on_the_cpu_only() -> None:
    with pytest.raises(UsageError, match="it runs on the CPU only"):
        resolve("linear_scan", "cpu", "cuda")


def test_a_compiler_that_is_named_but_missing_is_a_reason(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    assert "'no-such-compiler', is not installed" in (BACKENDS["cpu"].unavailable("linear_scan", "cpu") or "")


@needs_compiler
def test_a_source_that_does_not_compile_is_a_reason_and_leaves_nothing(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(monkeypatch, tmp_path, "this is not C++")
    kernel = native.load("small")
    assert kernel.code is None
    assert "could not compile small.cpp" in (kernel.reason or "")
    assert "error" in (kernel.reason or "")
    assert not [path for path in empty_cache.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [("exit 3", "--version` failed"), ("[ $1 = --version ] || { echo crashed; exit 1; }", "crashed")],
)
def test_a_broken_compiler_is_a_reason(
    script: str, reason: str, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "broken", script))
    assert reason in (native.load("linear_scan").reason or "")


def test_a_library_that_cannot_be_loaded_is_a_reason(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo text > "$2"; shift; done'
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "strange", script))
    assert "cannot be loaded" in (native.load("linear_scan").reason or "")


@needs_compiler
def test_a_library_that_was_cut_short_is_compiled_again_and_not_mapped(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(monkeypatch, tmp_path)
    path = native._built(tmp_path / "small.cpp")
    os.truncate(path, 8192)
    library = native.load("small").code
    assert library is not None
    assert library.one() == 1


def test_a_compiler_that_hangs_is_said_ended_with_its_children_and_asked_once(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    children = tmp_path / "children"
    script = f'[ "$1" = --version ] && exec echo 1; sleep 60 & echo $! >> {children}; wait'
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "hanging", script))
    monkeypatch.setattr(native, "TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(native, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(native, "_hanging", set())
    reasons = [native.load(name).reason or "" for name in ("linear_scan", "rg_lru", "selective_scan")]
    assert "did not end within 0 s" in reasons[0]
    assert all("did not end within 0 s before" in reason for reason in reasons[1:])
    assert "Waiting for the compiler: linear_scan.cpp is being compiled" in capfd.readouterr().err
    (child,) = map(int, children.read_text().split())
    until = time.monotonic() + 10
    while psutil.pid_exists(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_what_a_compiler_says_may_be_in_any_encoding(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = r"[ $1 = --version ] || { printf 'error: \344\366\374'; exit 1; }"
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "latin", script))
    assert "could not compile linear_scan.cpp: error: \ufffd" in (native.load("linear_scan").reason or "")


def test_a_cache_that_cannot_be_written_is_a_reason(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if COMPILER is None:
        monkeypatch.setenv("CXX", "true")
    empty_cache.write_text("a file where the folder should be")
    assert paths.KERNEL_CACHE_VARIABLE in (native.load("linear_scan").reason or "")


def test_a_file_system_without_locks_is_a_reason(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(lock: FileLock, timeout: float | None = None) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    if COMPILER is None:
        monkeypatch.setenv("CXX", "true")
    assert "has no locks. Choose another folder with" in (native.load("linear_scan").reason or "")


@needs_compiler
def test_compiles_for_any_processor_for_as_long_as_the_compiler_cannot_for_this_one(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(monkeypatch, tmp_path)
    broken = tmp_path / "broken"
    broken.touch()
    script = f'case "$*" in *-march=native*) [ -e {broken} ] && exit 1;; esac; exec {COMPILER} "$@"'
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "compiler", script))

    def loaded() -> str:
        native.load.cache_clear()  # as in a new process
        library = native.load("small").code
        assert library is not None
        assert library.one() == 1
        return library._name

    for_any = loaded()
    assert loaded() == for_any
    broken.unlink()
    assert loaded() != for_any


@needs_compiler
def test_what_is_compiled_on_an_unknown_processor_is_for_any(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(monkeypatch, tmp_path)
    monkeypatch.setattr(native, "_processor_features", lambda: None)
    log = tmp_path / "log"
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "compiler", f'echo "$*" >> {log}; exec {COMPILER} "$@"'))
    assert native.load("small").code is not None
    assert "-march" not in log.read_text()


@needs_compiler
def test_what_is_compiled_is_used_again_until_something_changes(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(monkeypatch, tmp_path)
    log = tmp_path / "log"
    script = f'[ "$1" = --version ] || echo compiled >> {log}; exec {COMPILER} "$@"'
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "counting", script))

    def compiled() -> int:
        native.load.cache_clear()  # as in a new process
        assert native.load("small").code is not None
        return len(log.read_text().split())

    assert [compiled(), compiled()] == [1, 1]
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g0"))
    assert compiled() == 2
    (tmp_path / "small.cpp").write_text('extern "C" int one() { return 2; }')
    assert compiled() == 3


@needs_compiler
def test_two_processes_may_race_for_an_empty_cache(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    script = f'[ "$1" = --version ] || echo compiled >> {log}; exec {COMPILER} "$@"'
    monkeypatch.setenv("CXX", compiler_that(tmp_path / "counting", script))
    program = "from seqbench.ops.cpu import native; assert native.load('dropout').code, native.load('dropout')"
    racing = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(2)]
    assert [process.wait(PATIENCE) for process in racing] == [0, 0]
    assert len(log.read_text().split()) == 1
    assert len(list(empty_cache.glob("*.so"))) == 1


TYPES = (torch.float32, torch.complex64, torch.float64, torch.complex128)
SHARED = rotating(
    rotating(product(TYPES, (False, True)), ((1, 100, 2100), (7, 900, 33), (40, 300, 17))),
    ("torch's threads", "threads of its own"),
)


@pytest.mark.parametrize(("dtype", "constant", "shape", "pool"), SHARED, ids=str)
def test_any_number_of_threads_gives_the_same_bits(
    shape: tuple[int, int, int], dtype: torch.dtype, constant: bool, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := BACKENDS["cpu"].unavailable("linear_scan", "cpu"):
        pytest.skip(reason)
    if pool == "threads of its own":
        monkeypatch.setattr(binding, "_torch_threads", lambda: None)
    B, _, D = shape
    gates = torch.rand(D if constant else shape, dtype=dtype) * 0.7  # complex ones must not grow without bound
    inputs, cotangent = torch.randn(2, *shape, dtype=dtype)
    initial = torch.randn(B, D, dtype=dtype)
    runs = []
    assert inputs.numel() >= 3 * 65536  # the kernel's least share of a thread
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        states = linear_scan.forward(gates, inputs, initial, None)
        runs.append([states, *linear_scan.backward(gates, states, initial, None, cotangent)])
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert torch.equal(one, other)


def with_threads(
    threads: int, tensors: list[torch.Tensor], lengths: torch.Tensor | None, patch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    """States and all gradients, for gates, inputs, initial state and cotangent."""
    patch.setattr(torch, "get_num_threads", lambda: threads)
    gates, inputs, initial, cotangent = tensors
    states = linear_scan.forward(gates, inputs, initial, lengths)
    return [states, *linear_scan.backward(gates, states, initial, lengths, cotangent)]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("constant", [False, True], ids=["varying", "constant"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64], ids=str)
def test_threads_that_share_a_long_row_find_what_one_finds(
    dtype: torch.dtype, constant: bool, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := BACKENDS["cpu"].unavailable("linear_scan", "cpu"):
        pytest.skip(reason)
    shape = (2, 4097, 65)
    B, _, D = shape
    gates = torch.rand(D if constant else shape, dtype=dtype) * (0.7 if dtype.is_complex else 0.98)
    inputs, cotangent = torch.randn(2, *shape, dtype=dtype)
    tensors = [gates, inputs, torch.randn(B, D, dtype=dtype), cotangent]
    lengths = torch.tensor([3001, 200]) if padded else None
    wide = torch.complex128 if dtype.is_complex else torch.float64
    true = with_threads(1, [tensor.to(wide) for tensor in tensors], lengths, monkeypatch)
    for threads in (4, 7):
        for result, expected in zip(with_threads(threads, tensors, lengths, monkeypatch), true, strict=True):
            assert_close(result, expected, dtype, f"{threads} threads")


def test_threads_that_share_a_long_row_agree_where_gates_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := BACKENDS["cpu"].unavailable("linear_scan", "cpu"):
        pytest.skip(reason)
    shape = (1, 4096, 64)
    gates, inputs = torch.full(shape, 1e10), torch.zeros(shape)
    cotangent = torch.zeros(shape)
    for result in with_threads(4, [gates, inputs, torch.zeros(1, 64), cotangent], None, monkeypatch):
        assert not result.any()


def test_a_length_beyond_the_tensor_ends_with_it() -> None:
    if reason := BACKENDS["cpu"].unavailable("linear_scan", "cpu"):
        pytest.skip(reason)
    gates, inputs = torch.rand(2, 3, 2, 5)
    initial = torch.rand(3, 5)
    states = linear_scan.forward(gates, inputs, initial, torch.tensor([9, 2, -4]))
    whole = linear_scan.forward(gates, inputs, initial, torch.tensor([2, 2, 0]))
    assert torch.equal(states, whole)
