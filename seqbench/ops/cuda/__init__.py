"""The operators in CUDA on an NVIDIA GPU, one source of kernels/ each."""

import torch

from seqbench.ops.cuda import nvrtc


def unavailable(operator: str, device: str) -> str | None:
    """Return why it cannot run on this device, or None; compiles the operator's kernels for float32 if need be.

    Of several GPUs the current one is asked. A kernel that does not compile for another says so when it is launched.
    """
    if torch.version.cuda is None or not torch.cuda.is_available():
        return f"it runs on NVIDIA GPUs only, and torch {torch.__version__} sees none"
    if device != "cuda":
        return "it runs on NVIDIA GPUs only"
    return nvrtc.load(operator, "float32", nvrtc.architecture(torch.cuda.current_device())).reason
