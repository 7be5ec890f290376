"""The operators in C++ on the CPU, one source of kernels/ each."""

from seqbench.ops.cpu import native


def unavailable(operator: str, device: str) -> str | None:
    """Why it cannot run on this device, or None; compiles the operator's kernel if need be."""
    return "it runs on the CPU only" if device != "cpu" else native.load(operator).reason
