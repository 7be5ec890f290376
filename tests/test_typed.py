"""Plain values against types: what is built, and what is said of what does not fit."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import pytest

from seqbench.typed import build


class Point(TypedDict, total=False):
    at: int
    value: float | None


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ()
    mode: Literal["a", "b", 3] = "a"


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = field(default_factory=Inner)
    points: list[Point] = field(default_factory=list)
    any: Any = None
    share: float = 0.0
    on: bool = False
    by_name: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count > 100:
            raise ValueError("count must be at most 100")


def test_nested_values_become_what_the_types_say() -> None:
    value = {
        "count": 3,
        "inner": {"names": ["x", "y"], "mode": 3},
        "points": [{"at": 1, "value": 2, "more": "kept"}, {"value": None}],
        "by_name": {"x": 1.5, "y": 2},
        "on": True,
    }
    built = build(Outer, value, "it")
    assert built.inner == Inner(("x", "y"), 3)
    assert built.points == [{"at": 1, "value": 2, "more": "kept"}, {"value": None}]
    assert (built.by_name, built.on, built.share) == ({"x": 1.5, "y": 2}, True, 0.0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], r"it must be a mapping, not \[\]"),
        ({}, "it.count is missing"),
        ({"count": True}, "it.count must be a whole number, not True"),
        ({"count": "3"}, "it.count must be a whole number, not '3'"),
        ({"count": 1.0}, "it.count must be a whole number, not 1.0"),
        ({"count": 101}, "it: count must be at most 100"),
        ({"count": 1, "more": 2}, "it has no 'more'; its fields are count, inner"),
        ({"count": 1, "inner": {"mode": "c"}}, "it.inner.mode must be one of a, b, 3, not 'c'"),
        ({"count": 1, "inner": {"mode": 3.0}}, "it.inner.mode must be one of a, b, 3, not 3.0"),
        ({"count": 1, "inner": {"names": "xy"}}, "it.inner.names must be a list, not 'xy'"),
        ({"count": 1, "points": [{}, {"at": None}]}, r"it.points\[1\].at must be a whole number, not None"),
        ({"count": 1, "points": [{"value": "fast"}]}, r"it.points\[0\].value must be a number, not 'fast'"),
        ({"count": 1, "share": float("inf")}, "it.share must be finite"),
        ({"count": 1, "share": False}, "it.share must be a number, not False"),
        ({"count": 1, "inner": {"names": ["\ud800"]}}, r"it.inner.names\[0\] must be text that can be written"),
        ({"count": 1, "by_name": {"x": []}}, r"it.by_name.x must be a number, not \[\]"),
        ({"count": 1, "by_name": {3: 1.0}}, "a name in it.by_name must be text, not 3"),
        ({"count": "x" * 1000}, "not 'xxx"),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        build(Outer, value, "it")
    assert len(str(caught.value)) < 200
