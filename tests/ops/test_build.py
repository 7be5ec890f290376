"""The cache of compiled kernels: what is damaged, foreign or open to others is compiled again or refused."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from seqbench import paths
from seqbench.ops import build
from seqbench.ops.build import attempt, cached

CODE = bytes(range(256)) * 64


class Compiler:
    """Compiles a source of three letters, and counts."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "small.cpp"
        self.source.write_text("abc")
        self.calls = 0

    def path(self, *parts: str) -> Path:
        return cached(self.source, "*.h", "small.so", parts, self._compile)

    def _compile(self, output: Path) -> None:
        self.calls += 1
        output.write_bytes(CODE)
        output.chmod(0o777)  # as under a generous umask


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    monkeypatch.setenv(paths.KERNEL_CACHE_VARIABLE, str(tmp_path / "cache"))
    return Compiler(tmp_path)


def truncate(path: Path) -> None:
    os.truncate(path, len(CODE) // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    path.write_bytes(CODE[:5000] + b"?" + CODE[5001:])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def open_to_others(path: Path) -> None:
    path.chmod(0o666)


DAMAGE = [truncate, empty, flip, pipe, link, open_to_others, Path.unlink]


@pytest.mark.parametrize("victim", ["code", "digest"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_what_is_not_as_it_was_compiled_is_compiled_again(
    damage: Callable[[Path], None], victim: str, compiler: Compiler
) -> None:
    path = compiler.path()
    damage(path if victim == "code" else path.with_name(f"{path.name}.sha256"))
    assert compiler.path() == path
    assert path.read_bytes() == CODE
    assert path.is_file()
    assert not path.is_symlink()
    assert compiler.calls == 2
    compiler.path()
    assert compiler.calls == 2


def test_files_can_be_written_by_nobody_else_whatever_the_umask(compiler: Compiler) -> None:
    path = compiler.path()
    assert not path.stat().st_mode & build.OTHERS_MAY_WRITE
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_of_ours_that_others_could_write_to_is_closed(compiler: Compiler) -> None:
    path = compiler.path()
    path.parent.chmod(0o777)
    assert compiler.path() == path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert compiler.calls == 1


def test_a_folder_of_another_user_is_refused(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compiler.path()
    if os.getuid() == 0:
        os.chown(path.parent, 12345, -1)  # what is root's is trusted
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    built = attempt(compiler.path, Path.read_bytes)
    assert built.code is None
    assert "belongs to another user; choose another with SEQBENCH_KERNEL_CACHE" in (built.reason or "")


def test_a_file_of_another_user_is_compiled_again(compiler: Compiler) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    path = compiler.path()
    os.chown(path, 12345, -1)
    assert compiler.path().stat().st_uid == 0
    assert compiler.calls == 2


def test_sources_headers_and_everything_else_are_part_of_the_name(compiler: Compiler) -> None:
    names = [compiler.path(), compiler.path("-O3")]
    (compiler.source.parent / "common.h").write_text("a header")
    names.append(compiler.path())
    compiler.source.write_text("abd")
    names.append(compiler.path())
    assert len(set(names)) == compiler.calls == 4


def test_what_cannot_be_loaded_is_a_reason_and_compiled_again_by_the_next_process(compiler: Compiler) -> None:
    def load(path: Path) -> bytes:
        raise OSError("version of the C library not found")

    assert "cannot be loaded: version of the C library" in (attempt(compiler.path, load).reason or "")
    assert attempt(compiler.path, Path.read_bytes).code == CODE
    assert compiler.calls == 2
