"""Which points of latency against length are measured. Importing this is cheap."""

from dataclasses import dataclass

# What is timed: from the history to the best items; from the history to the state that scores them; from one more item
# and a state to the best items; from the history to the state that items can be appended to.
MODES = ("whole", "encode", "step", "prefill")


@dataclass(frozen=True)
class LatencyGrid:
    """Lengths, batches and modes of the points, and the time for each. Without lengths, nothing is measured.

    A model has the points of the modes that exist for it: a model that counts only `whole`, and only incremental ones
    `step` and `prefill`.
    """

    lengths: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    batches: tuple[int, ...] = (1, 32)
    seconds: float = 1.0  # for each point, after the minimum number of samples
    modes: tuple[str, ...] = ("whole", "step")  # of MODES

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: a length or batch below one, a negative time, or an unknown mode.
        """
        if any(value < 1 for value in (*self.lengths, *self.batches)):
            raise ValueError("lengths and batches must be at least 1")
        if self.seconds < 0:
            raise ValueError("seconds must not be negative")
        if unknown := set(self.modes) - set(MODES):
            raise ValueError(f"modes must be some of {', '.join(MODES)}, not {min(unknown)}")
