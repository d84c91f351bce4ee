"""From values to places on a plot: linear and logarithmic scales with ticks that people would choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Maps [low, high] to [start, end] in the units of the drawing."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Place of a value."""
        low, high, v = self.low, self.high, value
        if self.logarithmic:
            low, high, v = math.log(low), math.log(high), math.log(value)
        return self.start + (v - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> tuple[float, ...]:
        """Round values inside the scale, `most` of them or a few less (at least one)."""
        return log_ticks(self.low, self.high, most) if self.logarithmic else linear_ticks(self.low, self.high, most)


def linear_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (*_STEPS, 20.0, 25.0) if (high - low) / (s * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(n * step for n in range(first, last + 1))


def log_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Powers of ten with 2 and 5 between them, as many as fit; round steps where less than a factor of 3 is shown."""
    if high / low < 3:
        found = linear_ticks(low, high, most)
        return tuple(t for t in found if t > 0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: tuple[float, ...] = ()
    for mantissas in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        # 1 / 10**n and not 10**-n: the nearest float to what a reader would write.
        found = tuple(m * 10**d if d >= 0 else m / 10**-d for d in decades for m in mantissas)
        inside = tuple(t for t in found if low <= t <= high)
        if len(inside) <= most or not ticks:
            ticks = inside
    return ticks


def tick_text(value: float) -> str:
    """As short as the value allows: 0.05, 2, 120, 1,500."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.6g}"


def padded(values: Sequence[float], *, logarithmic: bool, pad: float = 0.06) -> tuple[float, float]:
    """Limits with some room around the values; also where all are one."""
    low, high = min(values), max(values)
    if logarithmic:
        room = max((high / low) ** pad, 1.15)
        return low / room, high * room
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return low - room, high + room
