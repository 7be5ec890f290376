"""What one setting can be in a search: numbers between two bounds, or one of some values."""

import math
from dataclasses import dataclass
from typing import Any

DIGITS = 3  # significant ones of a number that is tried: more say nothing, and make long tables


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both bounds are.

    Args:
        log: every factor is as likely as any other, instead of every difference.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is true, not {self.low}")

    @property
    def whole(self) -> bool:
        """Return whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the values that a model must be able to take."""
        return self.low, self.high

    @property
    def count(self) -> float:
        """Return how many values there are."""
        return self.high - self.low + 1 if self.whole else math.inf

    def at(self, share: float) -> Any:
        """Return the value below which a share of the range lies, 0 ≤ share < 1."""
        low, high = self.low, self.high + (1 if self.whole else 0)
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        return min(math.floor(value), int(self.high)) if self.whole else self.rounded(value)

    def rounded(self, value: float) -> Any:
        """Return a value with as many digits as are tried."""
        return value if self.whole else min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of some values, in no order."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"values must be given, each once, not {list(self.values)}")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the values that a model must be able to take."""
        return self.values

    @property
    def count(self) -> float:
        """Return how many values there are."""
        return len(self.values)

    def at(self, share: float) -> Any:
        """Return the value below which a share of the values lies, 0 ≤ share < 1."""
        return self.values[int(share * len(self.values))]

    def rounded(self, value: Any) -> Any:
        """Return the value as it is."""
        return value


Dimension = Range | Choice
