"""Shared by all tests: golden fixtures, poisoned memory, deterministic seeds, a small prepared data set."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqbench.ops.backends import BACKENDS, use
from seqbench.paths import KERNEL_CACHE_VARIABLE
from tests.kit import Bench

# The tensors are tiny: a second thread gains nothing, and waits for minutes when something else has the processor.
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """One fixture file: arrays by name, and the configuration they were made with."""

    def __init__(self, name: str) -> None:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
            self.config: dict[str, Any] = json.loads(str(stored["config"]))
            self.arrays = {key: stored[key] for key in stored.files if key != "config"}

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in self.arrays.items() if k.startswith(prefix)}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised floating-point memory is NaN, so that reading it is noticed."""

    def poison(original: Any) -> Any:
        def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = original(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() or tensor.is_complex() else tensor

        return filled

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))


@pytest.fixture(scope="session", autouse=True)
def _kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels are compiled once per session, for all its processes, and the user's cache is left alone."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    kernels = folder / "kernels"
    kernels.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KERNEL_CACHE_VARIABLE, str(kernels))
        yield


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every backend that can run on the CPU here, in use."""
    if reason := BACKENDS[request.param].unavailable("linear_scan", "cpu"):
        pytest.skip(reason)
    with use(request.param):
        yield request.param


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one prepared data set: 50 users, 38 items that pass the filters. Not to be changed."""
    from seqbench.data.prepare import prepare
    from seqbench.data.synthetic import SyntheticOptions

    folder = tmp_path_factory.mktemp("home")
    prepare("synthetic", home=folder, synthetic=SyntheticOptions(users=50, items=40, length=12))
    return folder


@pytest.fixture
def bench(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """`seqbench` over the small data set, with an empty results folder."""
    return Bench(home, tmp_path / "results", capsys)
