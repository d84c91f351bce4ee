"""Correcting a table of predicted KL by measurements on the target: which changes are worth measuring, and what they teach.

A change gives one tensor another type and leaves the rest of a plan as it is. Its predicted cost is right within a factor (`SPREAD`), so a change
whose price is near the plan's may well be better than it looks. Measurements have errors of their own; each is weighed against its prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ramp_edge.codec.types import QuantType
from ramp_edge.records import ErrorTable

REACH = 2
"""Steps up and down among the types that are not beaten by a smaller one."""
SPREAD = 0.65
"""Standard deviation of ln(measured / predicted), once their common factor is out: 0.64 to 0.75 for 710 changes of SmolLM2-135M at 5.3 bits, 24,576
tokens, those that measured beyond two standard errors."""
_LOWEST_FACTOR, _HIGHEST_FACTOR = 0.2, 5.0
_LEAST_ERROR = 1e-12
"""Nats per token: no measurement is surer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Another type for one tensor of a plan."""

    tensor: str
    quant_type: QuantType
    predicted_kl: float
    """Of the changed plan less the plan's own, nats per token."""
    size_bytes: int
    """Likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredChange:
    """What a change did."""

    change: Change
    kl: float
    """Mean of the paired differences, nats per token."""
    std_error: float


Sizes = Mapping[str, Mapping[QuantType, int]]
"""Bytes of every legal type of every tensor."""


def neighbours(table: ErrorTable, sizes: Sizes, types: Mapping[str, QuantType]) -> list[Change]:
    """All changes within REACH of a plan. A type that costs more KL than one of no more bytes takes no step."""
    found = []
    for tensor, now in types.items():
        kl, size = table.kl[tensor], sizes[tensor]
        ladder = [
            t
            for t in sorted(size, key=lambda t: (size[t], kl[t]))
            if t is now or not any(size[u] <= size[t] and kl[u] < kl[t] for u in size)
        ]
        at = ladder.index(now)
        found += [
            Change(tensor=tensor, quant_type=t, predicted_kl=kl[t] - kl[now], size_bytes=size[t] - size[now])
            for t in ladder[max(0, at - REACH) : at + REACH + 1]
            if t is not now
        ]
    return found


def price_of_a_byte(changes: Sequence[Change]) -> float:
    """KL per byte at which the plan buys and sells: between the dearest byte it did not buy and the cheapest it kept."""
    bought = [-c.predicted_kl / c.size_bytes for c in changes if c.size_bytes > 0]
    kept = [c.predicted_kl / -c.size_bytes for c in changes if c.size_bytes < 0]
    ends = ([max(0.0, *bought)] if bought else []) + ([max(0.0, min(kept))] if kept else [])
    return sum(ends) / len(ends) if ends else 0.0


def worth_measuring(changes: Sequence[Change], n: int) -> list[Change]:
    """The `n` changes whose measurement is expected to save most KL, most first.

    Expected improvement: a change that looks `loss` worse than the plan at the price of a byte, give or take SPREAD of its own size.
    """
    price = price_of_a_byte(changes)

    def gain(change: Change) -> float:
        sd = SPREAD * abs(change.predicted_kl)
        loss = change.predicted_kl + price * change.size_bytes
        if sd == 0.0:
            return max(0.0, -loss)
        z = loss / sd
        return sd * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * math.erfc(z / math.sqrt(2)) / 2)

    order = sorted(range(len(changes)), key=lambda i: (-gain(changes[i]), i))
    return [changes[i] for i in order[:n]]


def common_factor(measured: Sequence[MeasuredChange]) -> float:
    """Measured over predicted KL, all changes together, by least squares; within a factor of 5 of one."""
    weights = [1.0 / max(m.std_error, _LEAST_ERROR) ** 2 for m in measured]
    total = sum(w * m.change.predicted_kl**2 for w, m in zip(weights, measured, strict=True))
    if not total > 0.0:
        return 1.0
    factor = sum(w * m.change.predicted_kl * m.kl for w, m in zip(weights, measured, strict=True)) / total
    return min(_HIGHEST_FACTOR, max(_LOWEST_FACTOR, factor))


def corrected(table: ErrorTable, types: Mapping[str, QuantType], measured: Sequence[MeasuredChange]) -> ErrorTable:
    """The table with measured changes in their places, on the table's own scale; what was not measured stays as predicted.

    Each becomes the mean of prediction and measurement, weighed by the inverse of their variances (a normal prior).
    """
    factor = common_factor(measured)
    kl = {tensor: dict(row) for tensor, row in table.kl.items()}
    for m in measured:
        expected = factor * m.change.predicted_kl
        prior, noise = (SPREAD * expected) ** 2, m.std_error**2
        share = prior / (prior + noise) if prior + noise > 0.0 else 0.0
        found = share * m.kl + (1.0 - share) * expected
        now = table.kl[m.change.tensor][types[m.change.tensor]]
        # KL is never negative: a type that measured better than nothing is as good as free.
        kl[m.change.tensor][m.change.quant_type] = max(now + found / factor, 1e-3 * now)
    return ErrorTable(kl=kl)
