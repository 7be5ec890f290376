"""Numbers as they are written, and what all plots share."""

import pytest

from seqbench.errors import StorageError, UsageError
from seqbench.show import plotting
from seqbench.show.footnotes import note
from seqbench.show.numbers import quantiles, significant


@pytest.mark.parametrize(
    ("value", "words"),
    [(12345.4, "12,345"), (123.4, "123"), (99.96, "100"), (9.996, "10.0"), (5, "5.00"), (0.0123, "0.0123")],
)
def test_costs_have_three_significant_digits_and_no_exponent(value, words):
    assert significant(value) == words


def test_what_is_too_small_for_three_digits_has_six_decimals():
    assert significant(0.000034) == "0.000034"


def test_quantiles_are_interpolated_or_values_that_occur():
    at = {"low": 0.0, "median": 0.5}
    assert quantiles([1, 2, 3, 10], at) == {"low": 1.0, "median": 2.5}
    assert quantiles([1, 2, 3, 10], at, method="inverted_cdf") == {"low": 1.0, "median": 2.0}
    assert quantiles([], at) == {}


def test_equal_footnotes_are_printed_once():
    notes: list[str] = []
    assert [note(notes, text) for text in ("a", "b", "a")] == [0, 1, 0]
    assert notes == ["a", "b"]


@pytest.mark.parametrize("suffix", plotting.SUFFIXES)
def test_a_plot_drawn_twice_is_the_same_file(tmp_path, suffix):
    for name in ("first", "second"):
        with plotting.figure(2, 1) as figure:
            axes = figure.subplots()
            axes.loglog([1, 1000], [1, 10])
            plotting.log_ticks(axes.xaxis, 1, 1000)
            plotting.save(figure, tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert len(first) > 1000


def test_what_cannot_be_drawn_is_said_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.svg"):
        plotting.check(tmp_path / "plot.gif")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UsageError, match="needs matplotlib") as caught:
        plotting.check(tmp_path / "plot.svg")
    assert "seqbench[plot]" in caught.value.hint


def test_a_plot_that_cannot_be_written_is_an_error_in_words(tmp_path):
    (tmp_path / "file").touch()
    with plotting.figure(1, 1) as figure, pytest.raises(StorageError):
        plotting.save(figure, tmp_path / "file" / "plot.svg")
