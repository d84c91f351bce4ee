"""Values of budgets: units are wanted where they matter, and two that differ look different."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.gate.metrics import Unit
from ramp_edge.gate.values import format_apart, parse_value, percent


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("95 MB", Unit.BYTES, 95e6),
        ("1.5 GiB", Unit.BYTES, 1.5 * 2**30),
        ("12", Unit.TOK_S, 12),
        ("12 tok/s", Unit.TOK_S, 12),
        ("200 ms", Unit.SECONDS, 0.2),
        ("3 min", Unit.SECONDS, 180),
        ("0.05", Unit.NATS, 0.05),
        ("3 %", Unit.SHARE, 0.03),
        ("-1%", Unit.SHARE, -0.01),
        ("0.4", Unit.SHARE, 0.4),
        ("1.05", Unit.NUMBER, 1.05),
        ("1e-3", Unit.NATS, 0.001),
    ],
)
def test_values(text: str, unit: Unit, value: float) -> None:
    assert parse_value(text, unit) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [
        ("95", Unit.BYTES, "has no unit"),
        ("95 MX", Unit.BYTES, "unknown unit"),
        ("2", Unit.SECONDS, "not a duration"),
        ("2 m", Unit.SECONDS, "not a duration"),
        ("12 MB", Unit.TOK_S, "write 12 or 12 tok/s"),
        ("twelve", Unit.TOK_S, "not understood"),
        ("nan", Unit.NATS, "not understood"),
        ("1e999", Unit.NATS, "out of range"),
        ("1e999 s", Unit.SECONDS, "out of range"),
        ("40", Unit.SHARE, "is a share of 4000 %: write 40 %"),
        ("", Unit.NUMBER, "not understood"),
    ],
)
def test_what_is_no_value_is_told_how_to_be_one(text: str, unit: Unit, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_value(text, unit)


@given(st.floats(1e-6, 1e12), st.floats(1e-6, 1e12), st.sampled_from(Unit))
def test_values_that_differ_look_different(a: float, b: float, unit: Unit) -> None:
    if unit is Unit.BYTES:
        a, b = round(a), round(b)
    shown = format_apart(a, b, unit)
    assert (shown[0] == shown[1]) == (a == b)


def test_percentages() -> None:
    assert [percent(x) for x in (0.05, 0.12345, 12.5, -0.0012, float("inf"))] == [
        "5%",
        "12.3%",
        "1250%",
        "-0.12%",
        "inf%",
    ]
    assert [percent(x, sign=True) for x in (0.05, -0.05, 2.0)] == ["+5%", "-5%", "+200%"]
