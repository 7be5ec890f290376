"""The short convolution against torch's, its gradients, and convolving in pieces."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqbench.ops.causal_convolution import causal_convolution


def arguments(length: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((2, length, 5), (width, 5), (5,))
    return tuple(torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes)  # type: ignore[return-value]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_equals_torch_with_its_gradients(length: int, width: int) -> None:
    inputs, weight, bias = arguments(length, width)
    padded = F.pad(inputs.transpose(1, 2), (width - 1, 0))
    expected = F.conv1d(padded, weight.t().unsqueeze(1), bias, groups=5).transpose(1, 2)
    outputs, _ = causal_convolution(inputs, weight, bias)
    torch.testing.assert_close(outputs, expected)
    cotangent = torch.randn_like(outputs)
    ours = torch.autograd.grad(outputs, (inputs, weight, bias), cotangent)
    theirs = torch.autograd.grad(expected, (inputs, weight, bias), cotangent)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("piece", [1, 2, 5])
def test_pieces_joined_by_their_windows_equal_the_whole(width: int, piece: int) -> None:
    inputs, weight, bias = arguments(10, width)
    whole, last = causal_convolution(inputs, weight, bias)
    window = None
    pieces = []
    for start in range(0, 10, piece):
        outputs, window = causal_convolution(inputs[:, start : start + piece], weight, bias, window)
        pieces.append(outputs)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    torch.testing.assert_close(window, last)


def test_gradient_reaches_the_window() -> None:
    inputs, weight, bias = arguments(2, 4)
    window = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(causal_convolution, (inputs, weight, bias, window))


def test_half_precision_inputs_give_half_precision() -> None:
    inputs, weight, bias = arguments(6, 4, torch.float32)
    exact, _ = causal_convolution(inputs, weight, bias)
    rough, window = causal_convolution(inputs.bfloat16(), weight, bias)
    assert rough.dtype == window.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("weight", "bias", "window"),
    [((4, 3), (5,), None), ((4, 5), (3,), None), ((4, 5), (5,), (2, 2, 5)), ((4, 5), (5,), (1, 3, 5))],
)
def test_shapes_that_do_not_fit_are_refused(
    weight: tuple[int, ...], bias: tuple[int, ...], window: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match="must be"):
        causal_convolution(
            torch.zeros(2, 6, 5),
            torch.zeros(weight),
            torch.zeros(bias),
            None if window is None else torch.zeros(window),
        )
