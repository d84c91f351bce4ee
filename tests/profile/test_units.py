"""Sizes and rates: round trips and refusals."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.units import (
    human_bytes,
    human_seconds,
    human_tok_s,
    limit_and_need,
    parse_bytes,
    parse_rate,
    parse_seconds,
)


@given(st.integers(0, 2**60))
def test_human_bytes_reads_back_within_half_a_last_digit(size_bytes: int) -> None:
    assert abs(parse_bytes(human_bytes(size_bytes)) - size_bytes) <= 0.0051 * size_bytes


@given(st.integers(0, 2**50), st.integers(1, 2**50))
def test_a_need_is_told_apart_from_its_limit_and_is_enough(limit_bytes: int, more: int) -> None:
    limit, need = limit_and_need(limit_bytes, limit_bytes + more)
    assert limit != need
    assert parse_bytes(need) >= limit_bytes + more
    assert parse_bytes(limit) == pytest.approx(limit_bytes, rel=0.0051, abs=1)


def test_a_need_takes_the_digits_it_needs() -> None:
    assert limit_and_need(95_000_000, 120_400_001) == ("95.0 MB", "121 MB")
    assert limit_and_need(1_570_000, 1_570_001) == ("1.57 MB", "1.58 MB")
    assert limit_and_need(1_578_400, 1_578_500) == ("1.578 MB", "1.579 MB")
    assert limit_and_need(7, 8) == ("7 B", "8 B")


@given(st.integers(0, 10**6), st.sampled_from(["B", "kB", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_rate_is_size_per_second(count: int, unit: str) -> None:
    assert parse_rate(f"{count} {unit}/s") == parse_bytes(f"{count}{unit}")


def test_decimal_and_binary_units_differ() -> None:
    assert parse_bytes("8 GiB") == 8 * 2**30
    assert parse_bytes("8 GB") == 8 * 10**9
    assert parse_bytes("1.5 kB") == 1500


@pytest.mark.parametrize("text", ["", "8", "GB", "-1 GB", "8 GX", "8 GB/s", "nan GB", "1e400 GB", "8 G B"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|use|range"):
        parse_bytes(text)


@given(st.text(max_size=12))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    for parse in (parse_bytes, parse_rate, parse_seconds):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error)


def test_durations() -> None:
    assert [parse_seconds(text) for text in ("200 ms", "1.5 s", "3min", "1 h")] == [0.2, 1.5, 180, 3600]


@pytest.mark.parametrize("text", ["", "2", "2 m", "-1 s", "1e400 s", "2 s/s", "2 S"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a duration|out of range"):
        parse_seconds(text)


@given(st.floats(0, 1e7))
def test_human_seconds_never_shows_sixty(seconds: float) -> None:
    text = human_seconds(seconds)
    assert not re.search(r"(?<![\d.])60 s", text) or seconds >= 3600
    assert "60 min" not in text


@pytest.mark.parametrize(
    ("tok_s", "text"),
    [(0.31254, "0.3125"), (20.0, "20"), (77.254, "77.25"), (999.96, "1000"), (3100.9, "3101"), (17159.3, "17159")],
)
def test_speeds_have_no_powers_of_ten(tok_s: float, text: str) -> None:
    assert human_tok_s(tok_s) == text
