"""What surrounds the CUDA kernels: reasons why there are none, the cache, and how time is cut. No GPU is needed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seqbench import paths
from seqbench.errors import UsageError
from seqbench.ops.backends import BACKENDS, resolve
from seqbench.ops.cuda import cutting, nvrtc, selective_scan
from seqbench.paths import KERNEL_CACHE_VARIABLE
from tests.kit import Bench


class Compiler:
    """Stands for cuda.core and counts what is compiled."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.compiled: list[tuple[str, str]] = []

    def ProgramOptions(self, **options: Any) -> dict[str, Any]:  # noqa: N802
        return options

    def Program(self, source: str, language: str, options: dict[str, Any]) -> SimpleNamespace:  # noqa: N802
        def compile(kind: str) -> SimpleNamespace:
            if self.error:
                raise self.error
            self.compiled.append((options["define_macro"][1], options["arch"]))
            return SimpleNamespace(code=f"{kind} of {source}".encode())

        return SimpleNamespace(compile=compile)

    def Device(self, index: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(set_current=lambda: None)

    class ObjectCode:
        @staticmethod
        def from_cubin(code: bytes) -> SimpleNamespace:
            return SimpleNamespace(code=code, handle=1)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the sources, where "small.cu" is the only one; nothing has been compiled yet."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "small.cu").write_text("a kernel")
    monkeypatch.setattr(paths, "shipped", lambda name: folder)
    monkeypatch.setenv(KERNEL_CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "_version", lambda: "13.0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(nvrtc, "load", nvrtc.load.__wrapped__)
    return folder


def use(monkeypatch: pytest.MonkeyPatch, compiler: Compiler) -> Compiler:
    monkeypatch.setattr(nvrtc, "core", lambda: compiler)
    return compiler


def test_without_a_gpu_the_reason_is_named_and_listed(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"runs on NVIDIA GPUs only, and torch .* sees none"):
        resolve("linear_scan", "cuda", "cpu")
    assert "runs on NVIDIA GPUs only, and torch" in " ".join(bench.call("env").out.split())
    assert resolve("linear_scan", "auto", "cpu").name != "cuda"


def test_it_does_not_run_on_the_cpu_of_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert BACKENDS["cuda"].unavailable("linear_scan", "cpu") == "it runs on NVIDIA GPUs only"


def test_without_cuda_core_the_extra_is_named(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(nvrtc, "import_module", missing)
    monkeypatch.setattr(nvrtc, "core", nvrtc.core.__wrapped__)
    assert "pip install 'seqbench[cuda]'" in (nvrtc.load("small", "float32", "sm_90").reason or "")


def test_an_older_cuda_core_has_its_classes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"cuda.core": SimpleNamespace(), "cuda.core.experimental": SimpleNamespace(Program=1)}
    monkeypatch.setattr(nvrtc, "import_module", modules.__getitem__)
    assert nvrtc.core.__wrapped__() is modules["cuda.core.experimental"]


def test_what_nvrtc_says_is_the_reason_and_nothing_is_kept(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Compiler(RuntimeError("NVRTC_ERROR_COMPILATION\n\nsmall.cu(3): error: expected a ;\n")))
    reason = nvrtc.load("small", "float32", "sm_90").reason or ""
    assert reason == "NVRTC 13.0 could not compile small.cu for sm_90: small.cu(3): error: expected a ;"
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_what_the_driver_says_is_the_reason(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Compiler())

    def refuse() -> int:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(torch.cuda, "current_device", refuse)
    assert (nvrtc.load("small", "float32", "sm_90").reason or "").endswith("the driver is too old")


def test_a_cache_that_cannot_be_written_is_a_reason(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Compiler())
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert KERNEL_CACHE_VARIABLE in (nvrtc.load("small", "float32", "sm_90").reason or "")


def test_an_operator_without_a_source_is_a_reason(kernels: Path) -> None:
    assert nvrtc.load("large", "float32", "sm_90").reason == "there is no CUDA kernel for large"


def test_what_is_compiled_is_used_again_until_something_changes(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = use(monkeypatch, Compiler())
    for _ in range(2):
        assert nvrtc.load("small", "float32", "sm_90").code.code == b"cubin of a kernel"
    assert compiler.compiled == [("float32", "sm_90")]
    nvrtc.load("small", "float32", "sm_80")
    nvrtc.load("small", "float64", "sm_90")
    (kernels / "common.cuh").write_text("a header")
    nvrtc.load("small", "float32", "sm_90")
    monkeypatch.setattr(nvrtc, "_version", lambda: "13.1")
    nvrtc.load("small", "float32", "sm_90")
    assert compiler.compiled[1:3] == [("float32", "sm_80"), ("float64", "sm_90")]
    assert compiler.compiled[3:] == [("float32", "sm_90")] * 2


WHOLE = cutting.Pass(bytes=384, in_flight=4096, instructions=13, resident=28)
REDUCED = cutting.Pass(bytes=256, in_flight=4096, instructions=10, resident=32)
CARRIED = cutting.Pass(bytes=384, in_flight=4096, instructions=17, resident=24)


def cut(warps: int, T: int, whole: cutting.Pass = WHOLE, reduced: cutting.Pass = REDUCED) -> cutting.Cut:
    return cutting.cut(warps, T, 132, whole, reduced, CARRIED)


@pytest.mark.parametrize("T", [1, 64, 65, 1000, 4097, 10**6])
@pytest.mark.parametrize("warps", [1, 4, 264, 10**6])
def test_chunks_cover_time_once(warps: int, T: int) -> None:
    pieces = cut(warps, T)
    assert (pieces.chunks - 1) * pieces.size < T <= pieces.chunks * pieces.size
    if pieces.chunks > 1:
        assert pieces.size % cutting.FEWEST_STEPS == 0


def test_time_is_cut_only_if_it_is_long_and_warps_are_few() -> None:
    assert cut(4, 16384).chunks > 1
    assert cut(4, 50).chunks == 1
    assert cut(132 * 28, 16384).chunks == 1


def test_less_in_flight_is_cut_sooner() -> None:
    whole = cutting.Pass(bytes=192, in_flight=2048, instructions=22, resident=28)
    reduced = cutting.Pass(bytes=128, in_flight=2048, instructions=12, resident=32)
    most = max(warps for warps in range(32, 3000, 32) if cut(warps, 8192).chunks > 1)
    assert cut(int(1.3 * most), 8192, whole, reduced).chunks > 1


def test_more_warps_take_less_time_each_until_they_do_not_fit() -> None:
    fitting = 132 * WHOLE.resident
    one, ten, full, over = (WHOLE.cycles(warps, 1000, 132) for warps in (132, 1320, fitting, fitting + 1))
    assert ten / 10 < one
    assert full / WHOLE.resident < ten / 10
    assert over - full > 0.5 * one / 132


def test_the_gradient_of_the_selective_scan_is_shared_out() -> None:
    """Among warps that share the channels of a row, where rows alone are a full round and a part of one."""
    whole = cutting.Pass(bytes=760, in_flight=640, instructions=620, resident=12)
    others = (REDUCED, REDUCED, CARRIED, CARRIED)
    many = selective_scan.share_out(2048, 200, 8, 4, 256, 132, whole, *others)
    assert many.cut.chunks == 1
    assert many.slabs > 1
    few = selective_scan.share_out(1, 16384, 8, 4, 256, 132, whole, *others)
    assert few.cut.chunks > 16
