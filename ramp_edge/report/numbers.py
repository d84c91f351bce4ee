"""Numbers as a reader sees them: as many digits as the error leaves, with unit and spread."""

from __future__ import annotations

import math

from ramp_edge.report.documents import DivergencePart, EvaluationPart, SpeedPart
from ramp_edge.units import human_bytes

NATS = "nats/token"
TOK_S = "tok/s"
_DIGITS = 3


def significant(value: float, digits: int = _DIGITS) -> str:
    """A plain decimal of that many digits, at most none lost before the point: 0.0348, 77.2, 1131."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def with_error(value: float, error: float) -> tuple[str, str]:
    """Value and ± error, both in the decimals of the error's two leading digits (one where it begins with 3 to 9)."""
    if error <= 0:
        return significant(value), ""
    exponent = math.floor(math.log10(error))
    digits = 2 if error / 10**exponent < 2.95 else 1
    decimals = max(0, digits - 1 - exponent)
    return f"{value:.{decimals}f}", f"± {error:.{decimals}f}"


def kl_text(divergence: DivergencePart) -> str:
    """0.0348 ± 0.0005"""
    return " ".join(filter(None, with_error(divergence.mean_kl, divergence.std_error)))


def ppl_text(evaluation: EvaluationPart) -> str:
    """15.2 ± 0.5"""
    return " ".join(filter(None, with_error(evaluation.perplexity.value, evaluation.perplexity.std_error)))


def speed_range(speed: SpeedPart) -> str:
    """Smallest to largest repeat, and how many there were."""
    n = len(speed.samples_tok_s)
    if n == 1:
        return "1 repeat"
    return f"{significant(min(speed.samples_tok_s))} to {significant(max(speed.samples_tok_s))}, {n} repeats"


def percent(share: float, digits: int = 1) -> str:
    """12.3 %"""
    return f"{100 * share:.{digits}f} %"


def change(new: float, old: float) -> str:
    """+12.3 % or −4.0 %, of the old value."""
    ratio = new / old - 1
    return f"{'+' if ratio >= 0 else '−'}{abs(100 * ratio):.1f} %"


def apart(first: DivergencePart, second: DivergencePart) -> bool:
    """Whether two mean KLs differ by more than their standard errors together (both are of one text, so errors are added)."""
    return abs(first.mean_kl - second.mean_kl) > first.std_error + second.std_error


def more_bytes(size: int, than: int) -> str:
    """118 kB more, and the like."""
    if size == than:
        return "the same bytes"
    return f"{human_bytes(abs(size - than))} {'more' if size > than else 'less'}"


def share_text(size: float, whole: float) -> str:
    """A share that never reads 0 where there is something: 4.3 %, 0.23 %, under 0.01 %."""
    if whole <= 0:
        return "all"
    share = size / whole
    if share == 0:
        return "0 %"
    if share < 0.0001:
        return "under 0.01 %"
    return percent(share, 2 if share < 0.01 else 1)
