"""kernels/vector_math.h against numpy in double precision, over the whole range of float32."""

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from seqbench import paths
from seqbench.ops.cpu import native

# Largest error in units in the last place.
FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": (np.exp, 1.5),
    "exp2": (np.exp2, 1.5),
    "expm1": (np.expm1, 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3),
    "softplus": (lambda x: np.where(x > 20, x, np.logaddexp(0, x)), 3),
}
LOOP = """
extern "C" void {name}_{type}(const {type}* x, {type}* y, int64_t n) {{
    for (int64_t i = 0; i < n; ++i) y[i] = math::{name}(x[i]);
}}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """One loop per function and precision, compiled as kernels are."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "vector_math.h").write_bytes((paths.shipped("kernels") / "vector_math.h").read_bytes())
    loops = [LOOP.format(name=name, type=type_) for name in FUNCTIONS for type_ in ("float", "double")]
    (folder / "vector_math_loops.cpp").write_text('#include "vector_math.h"\n' + "".join(loops))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "shipped", lambda name: folder)
        kernel = native.load("vector_math_loops")
    if kernel.code is None:
        pytest.skip(str(kernel.reason))
    return kernel.code


def apply(library: ctypes.CDLL, name: str, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    function = library[f"{name}_{'float' if x.dtype == np.float32 else 'double'}"]
    function(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(len(x)))
    return y


def sweep() -> np.ndarray:
    """A few million finite float32: over all bit patterns, and densely where the results are ordinary numbers."""
    patterns = np.arange(0, 2**32, 2003, dtype=np.uint32).view(np.float32)
    return np.concatenate([patterns[np.isfinite(patterns)], np.linspace(-130, 130, 1_000_001, dtype=np.float32)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float_is_within_units_in_the_last_place(name: str, library: ctypes.CDLL) -> None:
    exact, limit = FUNCTIONS[name]
    x = sweep()
    with np.errstate(over="ignore", under="ignore"):
        expected = exact(x.astype(np.float64))
        rounded = expected.astype(np.float32)
    found = apply(library, name, x)
    assert np.array_equal(np.isinf(found), np.isinf(rounded))
    ordinary = np.isfinite(rounded) & (np.abs(expected) >= 2.0**-125)
    error = np.abs(found[ordinary] - expected[ordinary]) / np.spacing(np.abs(rounded[ordinary]))
    assert error.max() <= limit, f"{error.max():.2f} at {x[ordinary][error.argmax()]!r}"
    assert np.abs(found[~ordinary & np.isfinite(rounded)]).max() <= 2.0**-125 * 1.00001


@pytest.mark.parametrize("name", FUNCTIONS)
def test_double_is_exact_to_a_few_roundings(name: str, library: ctypes.CDLL) -> None:
    x = np.linspace(-40, 40, 100_001)
    exact, _ = FUNCTIONS[name]
    np.testing.assert_allclose(apply(library, name, x), exact(x), rtol=4e-15, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits_and_nan(name: str, dtype: type, library: ctypes.CDLL) -> None:
    ends = {"exp": (0, np.inf), "exp2": (0, np.inf), "expm1": (-1, np.inf), "sigmoid": (0, 1), "softplus": (0, np.inf)}
    x = np.array([-np.inf, np.inf, np.nan, -np.nan] * 5, dtype=dtype)  # vectors and what is left over
    expected = np.array([*ends[name], np.nan, np.nan] * 5, dtype=dtype)
    np.testing.assert_array_equal(apply(library, name, x), expected)
