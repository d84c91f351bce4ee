"""Numbers as readers see them: digits follow the error, ticks are round, and everything stays on the plot."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.report.numbers import change, more_bytes, share_text, significant, with_error
from ramp_edge.report.scales import Scale, linear_ticks, log_ticks, padded, tick_text

POSITIVE = st.floats(min_value=1e-9, max_value=1e12)


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.034766, 0.00052, ("0.0348", "± 0.0005")),
        (0.12368, 0.0029, ("0.1237", "± 0.0029")),
        (44.31, 2.71, ("44.3", "± 2.7")),
        (1234.5, 31.0, ("1234", "± 31")),
        (0.5, 0.0, ("0.500", "")),
    ],
)
def test_digits_follow_the_error(value: float, error: float, shown: tuple[str, str]) -> None:
    assert with_error(value, error) == shown


@given(POSITIVE)
def test_significant_keeps_three_digits(value: float) -> None:
    assert float(significant(value)) == pytest.approx(value, rel=5.1e-3)
    assert "e" not in significant(value)


def test_zero_and_shares() -> None:
    assert significant(0.0) == "0"
    assert share_text(0, 10) == "0 %"
    assert share_text(1, 10**9) == "under 0.01 %"
    assert share_text(23, 10**4) == "0.23 %"
    assert share_text(43, 1000) == "4.3 %"
    assert (change(88, 100), change(150, 100)) == ("−12.0 %", "+50.0 %")
    assert (more_bytes(5, 5), more_bytes(1200, 200), more_bytes(200, 1200)) == (
        "the same bytes",
        "1.00 kB more",
        "1.00 kB less",
    )


@given(st.lists(POSITIVE, min_size=1, max_size=9), st.booleans())
def test_values_lie_between_the_limits_and_ticks_inside(values: list[float], logarithmic: bool) -> None:
    low, high = padded(values, logarithmic=logarithmic)
    assert (low < min(values) and max(values) < high) or (low <= min(values) and max(values) <= high and low < high)
    scale = Scale(low=low, high=high, start=50, end=400, logarithmic=logarithmic)
    assert all(50 - 1e-6 <= scale.at(v) <= 400 + 1e-6 for v in values)
    ticks = scale.ticks(6)
    assert all(50 - 1e-3 <= scale.at(t) <= 400 + 1e-3 for t in ticks if t > 0 or not logarithmic)
    assert len(set(map(tick_text, ticks))) == len(ticks) or high / low < 1.0001 or max(values) > 1e9


@given(POSITIVE, st.floats(min_value=1.01, max_value=1e6), st.integers(min_value=3, max_value=9))
def test_no_more_ticks_than_asked_for(low: float, factor: float, most: int) -> None:
    assert len(linear_ticks(low, low * factor, most)) <= most + 1
    assert len(log_ticks(low, low * factor, most)) <= max(most + 1, math.ceil(math.log10(factor)) + 2)


def test_ticks_that_people_would_choose() -> None:
    assert linear_ticks(0, 4000, 6) == (0, 1000, 2000, 3000, 4000)
    assert linear_ticks(69.1, 92.3, 6) == (70, 75, 80, 85, 90)
    assert log_ticks(0.03, 0.9, 6) == (0.05, 0.1, 0.2, 0.5)
    assert [tick_text(t) for t in (0, 0.05, 2.0, 1500.0)] == ["0", "0.05", "2", "1,500"]
