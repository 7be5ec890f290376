"""Which points of latency against length are measured. Importing this is cheap."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LatencyGrid:
    """Lengths and batches of the points, and the time for each. Without lengths, nothing is measured."""

    lengths: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    batches: tuple[int, ...] = (1, 32)
    seconds: float = 1.0  # for each point, after the minimum number of samples

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: a length or batch below one, or a negative time.
        """
        if any(value < 1 for value in (*self.lengths, *self.batches)):
            raise ValueError("lengths and batches must be at least 1")
        if self.seconds < 0:
            raise ValueError("seconds must not be negative")
