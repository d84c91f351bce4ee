"""Values in the units of their metrics: read from budgets, written so that two that differ look different."""

from __future__ import annotations

import math
import re

from ramp_edge.gate.metrics import Unit
from ramp_edge.units import human_bytes, human_seconds, parse_bytes, parse_seconds

_NUMBER = re.compile(r"^\s*([+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*(\S.*?)?\s*$")
_EXAMPLES = {
    Unit.TOK_S: "12 or 12 tok/s",
    Unit.NATS: "0.05",
    Unit.BITS: "4.85",
    Unit.SHARE: "3 % or 0.03",
    Unit.JOULES: "0.2 J",
    Unit.NUMBER: "1.05",
}
_LARGEST_BARE_SHARE = 2.0
_DIGITS = 4
_MOST_DIGITS = 17
"""They tell any two floats apart."""


def parse_value(text: str, unit: Unit) -> float:
    """A value as a budget gives it. Raises ValueError that shows how to write it."""
    if unit is Unit.BYTES:
        return parse_bytes(text)
    if unit is Unit.SECONDS:
        return parse_seconds(text)
    match = _NUMBER.match(text)
    if match is None or (match[2] or unit.value) not in (unit.value, ""):
        raise ValueError(f"{text!r} is not understood: write {_EXAMPLES[unit]}")
    value = float(match[1])
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is out of range")
    if unit is Unit.SHARE and not match[2] and abs(value) > _LARGEST_BARE_SHARE:
        raise ValueError(f"{text!r} is a share of {100 * value:g} %: write {text.strip()} % for a percentage")
    return value / 100 if unit is Unit.SHARE and match[2] else value


def format_value(value: float, unit: Unit, digits: int = _DIGITS) -> str:
    """A value with its unit; more than 4 digits where they are asked for."""
    if unit is Unit.BYTES:
        return human_bytes(value) if digits <= _DIGITS else f"{value:.0f} B"
    if unit is Unit.SECONDS:
        return human_seconds(value) if digits <= _DIGITS else f"{value:.{digits}g} s"
    if unit is Unit.SHARE:
        return f"{100 * value:.{digits}g}%"
    return f"{value:.{digits}g}" + (f" {unit.value}" if unit.value else "")


def format_apart(first: float, second: float, unit: Unit) -> tuple[str, str]:
    """Both values, in as many digits as tell them apart."""
    for digits in range(_DIGITS, _MOST_DIGITS + 1):
        shown = format_value(first, unit, digits), format_value(second, unit, digits)
        if first == second or shown[0] != shown[1]:
            return shown
    return repr(first), repr(second)


def percent(share: float, *, sign: bool = False) -> str:
    """A share as a percentage of at most three digits: 4.2%, -12%, 0.03%."""
    if not math.isfinite(share):
        return "inf%" if share > 0 else "-inf%"
    shown = 100 * share
    if abs(shown) >= 99.95:
        return f"{shown:+.0f}%" if sign else f"{shown:.0f}%"
    return f"{shown:+.3g}%" if sign else f"{shown:.3g}%"
