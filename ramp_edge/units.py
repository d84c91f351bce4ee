"""Sizes and rates in human units. Decimal for KB/MB/GB (as disks and file listings), binary for KiB/MiB/GiB."""

from __future__ import annotations

import re

_FACTORS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_NUMBER = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)(/s)?\s*$")
_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_STEPS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def _parse(text: str, *, rate: bool) -> int:
    example = "17.1 GB/s" if rate else "95 MB or 1.5 GiB"
    match = _NUMBER.match(text)
    if match is None or bool(match.group(3)) != rate:
        raise ValueError(f"{text!r} is not a {'rate' if rate else 'size'}: write {example}")
    unit = match.group(2).lower()
    if not unit:
        raise ValueError(f"{text!r} has no unit: write {example}")
    if unit not in _FACTORS:
        raise ValueError(f"{text!r} has the unknown unit {match.group(2)!r}: use {', '.join(_FACTORS)}")
    value = float(match.group(1)) * _FACTORS[unit]
    if not value < 2**62:
        raise ValueError(f"{text!r} is out of range")
    return round(value)


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `95 MB` or `1.5 GiB`. Raises ValueError without a known unit."""
    return _parse(text, rate=False)


def parse_rate(text: str) -> int:
    """Bytes per second of a rate such as `17.1 GB/s`. Raises ValueError without a known unit."""
    return _parse(text, rate=True)


def parse_seconds(text: str) -> float:
    """Seconds of a duration such as `1.5 s`, `200 ms` or `3 min`. Raises ValueError without a known unit."""
    match = _NUMBER.match(text)
    if match is None or match.group(3) or match.group(2) not in _SECONDS:
        raise ValueError(f"{text!r} is not a duration: write 1.5 s, 200 ms, 3 min or 1 h")
    value = float(match.group(1)) * _SECONDS[match.group(2)]
    if not value < 2**62:
        raise ValueError(f"{text!r} is out of range")
    return value


def human_bytes(size_bytes: float) -> str:
    """Three significant digits in decimal units: 91.7 MB, 1.25 GB, 512 B."""
    sign = "-" if size_bytes < 0 else ""
    value = abs(size_bytes)
    for unit, factor in _STEPS:
        # 999.5 of a unit would print as 1000: it belongs to the next one.
        if value >= factor * 0.9995:
            scaled = value / factor
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{sign}{scaled:.{digits}f} {unit}"
    return f"{sign}{value:.0f} B"


def limit_and_need(limit_bytes: int, needed_bytes: int) -> tuple[str, str]:
    """A limit and the larger size that is needed instead, in as many digits as tell them apart.

    The need is rounded up, so that `parse_bytes` of it is enough.
    """
    digits = 3
    while True:
        limit, needed = _with_digits(limit_bytes, digits, up=False), _with_digits(needed_bytes, digits, up=True)
        if limit != needed:
            return limit, needed
        digits += 1


def _with_digits(size_bytes: int, digits: int, *, up: bool) -> str:
    unit, factor = next((step for step in _STEPS if size_bytes >= step[1]), ("B", 1))
    # In integers: 15 digits of a float would not be exact.
    decimals = min(max(0, digits - len(str(size_bytes // factor))), len(str(factor)) - 1)
    quantum = factor // 10**decimals
    steps = -(-size_bytes // quantum) if up else (size_bytes + quantum // 2) // quantum
    whole, rest = divmod(steps, 10**decimals)
    return f"{whole}.{rest:0{decimals}d} {unit}" if decimals else f"{whole} {unit}"


def human_seconds(seconds: float) -> str:
    """0.42 s, 12.3 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def human_tok_s(tok_s: float) -> str:
    """Four digits, or all before the point: 20, 77.25, 17159, and no powers of ten."""
    return f"{tok_s:.0f}" if tok_s >= 1000 else f"{tok_s:.4g}"
