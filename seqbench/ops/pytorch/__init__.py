"""The operators in PyTorch operations, any device."""


def unavailable(operator: str, device: str) -> str | None:
    """Runs wherever torch does."""
    return None
