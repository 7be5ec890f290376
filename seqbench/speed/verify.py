"""Verify before timing: outputs and gradients against the plain loop in float64, on the tensors that are timed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seqbench.speed.workloads import OUTPUT, Inputs, Shape, Workload, leaves

# Largest deviation, relative to the largest value of the compared tensor. Sums over all positions, such as the
# gradients of parameters, may be added up in any order: hence float32 has a wider tolerance than a state needs.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@dataclass(frozen=True)
class Deviation:
    """The tensor that is furthest from the reference, and how far; `error` is NaN if it holds a NaN."""

    tensor: str
    error: float
    tolerance: float

    @property
    def wrong(self) -> bool:
        """Whether it is too far."""
        return not self.error <= self.tolerance


def reference(workload: Workload, shape: Shape, inputs: Inputs, cotangent: Tensor) -> Inputs:
    """Compute output and gradients in float64 by the reference backend, a few rows at a time.

    Args:
        workload: the operator.
        shape: of the problem.
        inputs: in any precision; what they lack of float64 is not counted against anybody.
        cotangent: gradient of a loss with respect to the output.

    Returns:
        The output under OUTPUT, and the gradient of every leaf under the leaf's name if there are gradients.
    """
    wide = {name: _wide(tensor) for name, tensor in inputs.items()}
    wanted = leaves(wide) if workload.differentiable else {}
    gradients = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    outputs = []
    step = workload.rows_at_once(shape)
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        sliced = {name: tensor[part] if name in workload.rows else tensor for name, tensor in wide.items()}
        sliced = {n: t.detach().requires_grad_() if n in gradients else t for n, t in sliced.items()}
        output = workload.run(sliced, backend="reference")
        outputs.append(output.detach())
        if not gradients:
            continue
        grad = _wide(cotangent[part] if workload.rows else cotangent)
        found = torch.autograd.grad(output, list(leaves(sliced).values()), grad)
        for name, gradient in zip(gradients, found, strict=True):
            if name in workload.rows:
                gradients[name][part] = gradient
            else:
                gradients[name] += gradient
    return {OUTPUT: torch.cat(outputs) if workload.rows else outputs[0], **gradients}


def deviation(results: Inputs, expected: Inputs, dtype: torch.dtype) -> Deviation:
    """Return the largest deviation of some results in `dtype` (of a real or of a complex number's parts)."""
    errors = {name: _error(result, expected[name]) for name, result in results.items()}
    worst = max(errors, key=lambda name: float("inf") if errors[name] != errors[name] else errors[name])
    return Deviation(worst, errors[worst], TOLERANCE[dtype])


def _error(result: Tensor, expected: Tensor) -> float:
    if result.shape != expected.shape:
        return float("nan")
    scale = max(expected.abs().max().item(), torch.finfo(torch.float32).tiny)
    return (result.to(expected.dtype) - expected).abs().max().item() / scale


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
