"""Choosing a backend, and adding a backend or an operator without touching the package."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seqbench import paths
from seqbench.errors import UsageError
from seqbench.ops import linear_cross_entropy, linear_scan
from seqbench.ops.backends import BACKENDS, Backend, resolve, use, used
from seqbench.ops.operator import Gradient, Operator, Signature, like
from tests.kit import ROOT

PROBLEM = torch.rand(2, 5, 3), torch.rand(2, 5, 3)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A backend of another package: it computes one operator of ours wrongly on purpose, and one of its own."""
    package = tmp_path / "toy_backend"
    package.mkdir()
    (package / "__init__.py").write_text("def unavailable(operator, device): return None\n")
    (package / "linear_scan.py").write_text("def forward(gates, inputs, initial_state, lengths): return inputs + 1\n")
    (package / "toy_scale.py").write_text(
        "def forward(x, factor): return x * factor\ndef backward(grad, factor): return grad * factor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with BACKENDS.added("toy", Backend("toy", "toy_backend", "for a test")):
        yield "toy"
    for name in [name for name in sys.modules if name.startswith("toy_backend")]:
        del sys.modules[name]


def test_operators_are_imported_in_one_line_and_lazily_and_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(paths.KERNEL_CACHE_VARIABLE, str(tmp_path / "kernels"))
    program = (
        "import sys, seqbench.ops; assert 'torch' not in sys.modules\n"
        "from seqbench.ops import linear_cross_entropy, linear_scan, rg_lru, selective_scan\n"
        "assert all(callable(f) for f in (linear_cross_entropy, linear_scan, rg_lru, selective_scan))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert not (tmp_path / "kernels").exists()


def test_an_unknown_backend_is_named_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean torch"):
        resolve("linear_scan", "torhc", "cpu")
    with pytest.raises(UsageError, match="Did you mean torch"), use("torhc"):
        pass


def test_auto_means_what_is_in_use() -> None:
    with use("reference"):
        assert resolve("linear_scan", "auto", "cpu").name == "reference"
        assert resolve("linear_scan", "torch", "cpu").name == "torch"
        with use("torch"):
            assert resolve("linear_scan", "auto", "cpu").name == "torch"
        assert resolve("linear_scan", "auto", "cpu").name == "reference"
    with use("auto"):
        assert resolve("linear_scan", "auto", "cpu").name in ("cpu", "torch")


def test_the_backend_of_every_operator_that_ran_is_remembered() -> None:
    with use("torch"):
        assert used() == {}
        linear_scan(*PROBLEM)
        assert used() == {"linear_scan": "torch"}
        linear_cross_entropy(torch.rand(1, 2), torch.rand(3, 2), None, torch.tensor([0]), backend="reference")
        assert used() == {"linear_scan": "torch", "linear_cross_entropy": "reference"}
    assert used() == {}


def test_a_backend_of_another_package_computes_an_operator(toy: str) -> None:
    assert torch.equal(linear_scan(*PROBLEM, backend=toy), PROBLEM[1] + 1)
    with use(toy):
        assert torch.equal(linear_scan(*PROBLEM), PROBLEM[1] + 1)


def test_what_a_backend_does_not_implement_runs_on_another_unless_it_is_asked_for(toy: str) -> None:
    arguments = torch.rand(1, 2), torch.rand(3, 2), None, torch.tensor([0])
    with use(toy):
        expected = linear_cross_entropy(*arguments, backend="torch")
        torch.testing.assert_close(linear_cross_entropy(*arguments), expected)
        assert used()["linear_cross_entropy"] != toy
    with pytest.raises(UsageError, match="it does not implement linear_cross_entropy"):
        linear_cross_entropy(*arguments, backend=toy)


def test_an_operator_of_another_package_has_a_gradient_and_compiles(toy: str) -> None:
    def save(ctx, arguments, result) -> None:  # type: ignore[no-untyped-def]
        _, ctx.factor = arguments

    def vjp(ctx, backward, grad):  # type: ignore[no-untyped-def]
        return backward(grad, ctx.factor), None

    signature = Signature("(Tensor x, float factor) -> Tensor", empty=lambda x, *_: like(x))
    scale = Operator("toy_scale", signature, Gradient(save, vjp, signature))
    x = torch.randn(3, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        result: Tensor = scale(x, 3.0)
        return result

    for call in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        result = call(x)
        (gradient,) = torch.autograd.grad(result.sum(), x)
        assert torch.equal(result, 3 * x)
        assert torch.equal(gradient, torch.full((3,), 3.0))
    assert resolve("toy_scale", "auto", "cpu").name == toy
    with pytest.raises(UsageError, match="Backend 'torch' cannot run toy_scale on cpu: it does not implement"):
        scale(x, 3.0, backend="torch")
