"""The knapsack with two constraints: bytes, and seconds per decoded token.

Minimise sum KL(tensor, type) subject to sum bytes <= B and sum seconds <= S. For multipliers (a, b) every tensor takes
argmin KL + a bytes + b seconds on its own, so a plan costs one vectorised argmin. For a fixed b, bisection finds the
smallest a that fits the bytes; an outer bisection finds the smallest b that fits the seconds. What the multipliers leave
unused is then spent by exchanging single choices while any exchange helps. From there an integer program goes on to the
optimum (`exact.py`): prices find convex trade-offs only, and exchanges move two tensors at once, where the next type of an
embedding may have to be paid for by dozens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.allocate.exact import improve

Float64 = npt.NDArray[np.float64]
Choice = npt.NDArray[np.int64]
_BISECTIONS = 60
_FRONTIER = 2048
"""Points kept of the frontier of (bytes, seconds)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One tensor: parallel tuples over its legal types."""

    kl: tuple[float, ...]
    size_bytes: tuple[int, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A choice for every item and what it costs."""

    choice: tuple[int, ...]
    kl: float
    size_bytes: int
    seconds: float
    lower_bound: float
    """No plan within the limits has a smaller sum of KL (duality, branch and bound)."""


class _Table:
    """Items padded to one width; padding costs infinity."""

    def __init__(self, items: Sequence[Item]) -> None:
        width = max(len(i.kl) for i in items)
        shape = (len(items), width)
        self.kl, self.size, self.seconds = np.full(shape, np.inf), np.full(shape, np.inf), np.full(shape, np.inf)
        for row, item in enumerate(items):
            n = len(item.kl)
            self.kl[row, :n], self.size[row, :n], self.seconds[row, :n] = item.kl, item.size_bytes, item.seconds
        self.valid = np.isfinite(self.size)
        self._rows = np.arange(len(items))

    def best(self, per_byte: float, per_second: float) -> Choice:
        cost = np.where(self.valid, self.kl, np.inf)
        with np.errstate(invalid="ignore"):
            if per_byte:
                cost = cost + per_byte * self.size
            if per_second:
                cost = cost + per_second * self.seconds
        # Among equals take the smallest: a free byte is still a byte.
        order = np.lexsort((self.size, np.where(self.valid, cost, np.inf)), axis=1)
        return order[:, 0]

    def total(self, values: Float64, choice: Choice) -> float:
        return float(values[self._rows, choice].sum())


def solve(items: Sequence[Item], max_bytes: float, max_seconds: float = float("inf")) -> Plan | None:
    """The best plan within both limits, by the integer program's gap; None where not even the smallest (or fastest) fits."""
    table = _Table(items)
    found = _relaxed(table, max_bytes, max_seconds)
    if found is None:
        return None
    best, bound = found
    if bound < table.total(table.kl, best):
        best, proved = improve(table.kl, table.size, table.seconds, best, max_bytes, max_seconds)
        bound = max(bound, proved)
    return Plan(
        choice=tuple(int(c) for c in best),
        kl=table.total(table.kl, best),
        size_bytes=round(table.total(table.size, best)),
        seconds=table.total(table.seconds, best),
        lower_bound=min(bound, table.total(table.kl, best)),
    )


def _relaxed(table: _Table, max_bytes: float, max_seconds: float) -> tuple[Choice, float] | None:
    """(the plan of multipliers and exchanges, a lower bound of any plan's KL); None where nothing fits."""
    smallest, fastest = table.size.argmin(1), table.seconds.argmin(1)
    if table.total(table.size, smallest) > max_bytes or table.total(table.seconds, fastest) > max_seconds:
        return None
    best: Choice | None = None
    bound = 0.0
    low, high = 0.0, 0.0
    # Outer multiplier: zero first; grow until the seconds fit, then bisect.
    for step in range(2 * _BISECTIONS):
        per_second = low if step == 0 else high if best is None else (low + high) / 2
        choice, dual = _fit_bytes(table, max_bytes, per_second)
        if np.isfinite(max_seconds):
            dual -= per_second * max_seconds
        bound = max(bound, dual)
        fits = table.total(table.seconds, choice) <= max_seconds
        if fits:
            if best is None or table.total(table.kl, choice) <= table.total(table.kl, best):
                best = choice
            high = per_second
            if step == 0 or high - low <= 1e-9 * max(high, 1e-30):
                break
        else:
            low = per_second
            if best is None:
                high = max(1e-9, 4.0 * per_second)
                if high > 1e15:
                    break
    if best is None:
        best = _feasible_start(table, max_bytes, max_seconds)
        if best is None:
            return None
    return _exchange(table, best, max_bytes, max_seconds), bound


def _fit_bytes(table: _Table, max_bytes: float, per_second: float) -> tuple[Choice, float]:
    """(choice within max_bytes for this price of a second, the dual value reached)."""

    def dual(choice: Choice, per_byte: float) -> float:
        value = table.total(table.kl, choice) + per_byte * (table.total(table.size, choice) - max_bytes)
        return value + (per_second * table.total(table.seconds, choice) if per_second else 0.0)

    choice = table.best(0.0, per_second)
    best_dual = dual(choice, 0.0)
    if table.total(table.size, choice) <= max_bytes:
        return choice, best_dual
    low, high = 0.0, 1e-15
    while True:
        choice = table.best(high, per_second)
        if table.total(table.size, choice) <= max_bytes:
            break
        best_dual = max(best_dual, dual(choice, high))
        if high > 1e12:
            return table.size.argmin(1), best_dual
        low, high = high, high * 8.0
    fitting = choice
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        choice = table.best(middle, per_second)
        best_dual = max(best_dual, dual(choice, middle))
        if table.total(table.size, choice) <= max_bytes:
            high, fitting = middle, choice
        else:
            low = middle
        if high - low <= 1e-12 * high:
            break
    return fitting, best_dual


def _feasible_start(table: _Table, max_bytes: float, max_seconds: float) -> Choice | None:
    """A plan within both limits by walking the frontier of (bytes, seconds), tensor by tensor; None where there is none.

    Exact while the frontier has at most _FRONTIER points (small models); beyond, evenly strided points stand for it.
    """
    least_bytes, least_seconds = table.size.min(1), table.seconds.min(1)
    size, seconds = np.zeros(1), np.zeros(1)
    steps: list[tuple[Choice, Choice]] = []
    for row in range(len(table.size)):
        columns = np.flatnonzero(table.valid[row])
        new_size = (size[:, None] + table.size[row, columns]).ravel()
        new_seconds = (seconds[:, None] + table.seconds[row, columns]).ravel()
        # A hair of tolerance: sums in another order differ in the last digits; the end is checked exactly.
        rest_size, rest_seconds = least_bytes[row + 1 :].sum(), least_seconds[row + 1 :].sum()
        order = np.lexsort((new_seconds, new_size))
        order = order[new_size[order] + rest_size <= max_bytes * (1 + 1e-12)]
        order = order[new_seconds[order] + rest_seconds <= max_seconds * (1 + 1e-12)]
        if not len(order):
            return None
        fastest = np.minimum.accumulate(new_seconds[order])
        kept = order[np.concatenate(([True], fastest[1:] < fastest[:-1]))]
        if len(kept) > _FRONTIER:
            kept = kept[np.linspace(0, len(kept) - 1, _FRONTIER).round().astype(np.int64)]
        size, seconds = new_size[kept], new_seconds[kept]
        steps.append((kept // len(columns), columns[kept % len(columns)]))
    for start in range(len(size)):
        choice: Choice = np.empty(len(steps), dtype=np.int64)
        point = start
        for row in reversed(range(len(steps))):
            parents, columns = steps[row]
            choice[row], point = columns[point], int(parents[point])
        if table.total(table.size, choice) <= max_bytes and table.total(table.seconds, choice) <= max_seconds:
            return choice
    return None


def _exchange(table: _Table, start: Choice, max_bytes: float, max_seconds: float) -> Choice:
    """Spend what is left: the single or paired change that lowers KL most, until none does."""
    choice: Choice = start.copy()
    rows = np.arange(len(choice))
    for _ in range(20 * len(choice)):
        room = max_bytes - table.total(table.size, choice)
        slack = max_seconds - table.total(table.seconds, choice)
        gain = np.where(table.valid, table.kl[rows, choice][:, None] - table.kl, -np.inf)
        grow = table.size - table.size[rows, choice][:, None]
        slow = np.where(table.valid, table.seconds - table.seconds[rows, choice][:, None], np.inf)
        single = np.where((grow <= room) & (slow <= slack), gain, -np.inf)
        row, column = divmod(int(single.argmax()), single.shape[1])
        if single[row, column] > 1e-15:
            choice[row] = column
            continue
        pair = _best_pair(gain, grow, slow, room, slack)
        if pair is None:
            break
        for row, column in pair:
            choice[row] = column
    return choice


def _best_pair(
    gain: Float64, grow: Float64, slow: Float64, room: float, slack: float
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """One change that wins KL and one that pays for its bytes or seconds; None where no pair helps."""
    flat_gain, flat_grow, flat_slow = gain.ravel(), grow.ravel(), slow.ravel()
    width = gain.shape[1]
    winners = np.flatnonzero((flat_gain > 1e-15) & np.isfinite(flat_grow))
    payers = np.flatnonzero((flat_gain < 0) & np.isfinite(flat_gain) & ((flat_grow < 0) | (flat_slow < 0)))
    if not len(winners) or not len(payers):
        return None
    net = flat_gain[winners][:, None] + flat_gain[payers][None, :]
    fits = (flat_grow[winners][:, None] + flat_grow[payers][None, :] <= room) & (
        flat_slow[winners][:, None] + flat_slow[payers][None, :] <= slack
    )
    other = (winners // width)[:, None] != (payers // width)[None, :]
    net = np.where(fits & other, net, -np.inf)
    first, second = np.unravel_index(int(net.argmax()), net.shape)
    if net[first, second] <= 1e-15:
        return None
    a, b = int(winners[first]), int(payers[second])
    return (a // width, a % width), (b // width, b % width)
