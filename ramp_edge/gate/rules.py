"""The rules of a budget and how they are written: `size_bytes <= 95 MB`, `decode_tok_s.median: -5%`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ramp_edge.gate.metrics import Better, Metric, find_metric
from ramp_edge.gate.values import parse_value
from ramp_edge.yaml_source import Place

SKIP = "skip"
_LIMIT = re.compile(r"^\s*(?P<name>[^\s<>=!]+)\s*(?P<operator>[<>=!]+)\s*(?P<bound>\S.*?)\s*$")
_PERCENT = re.compile(r"^\s*(?P<sign>[+-])?\s*(?P<number>[0-9]+(?:\.[0-9]+)?)\s*%\s*$")
_OPERATORS = {Better.LOWER: ("<=", "<"), Better.HIGHER: (">=", ">")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A bound that the value may not pass."""

    metric: Metric
    operator: str
    """`<=` or `<` where lower is better, `>=` or `>` where higher is."""
    bound: float
    bound_text: str
    """As the budget writes it."""
    place: Place

    @property
    def text(self) -> str:
        return f"{self.metric.name} {self.operator} {self.bound_text}"

    def allows(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return {
            "<=": value <= self.bound,
            "<": value < self.bound,
            ">=": value >= self.bound,
            ">": value > self.bound,
        }[self.operator]


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """How much worse than the baseline a value may be."""

    metric: Metric
    allowed: float
    """Share of the baseline's value, 0 or more, in the direction that is worse."""
    allowed_text: str
    place: Place

    @property
    def text(self) -> str:
        return f"{self.metric.name}: {self.allowed_text}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """A device that a default does not apply to."""

    metric: Metric
    place: Place


Rule = Limit | Regression


def parse_limit(text: object, place: Place) -> Limit:
    """A limit such as `kl_mean <= 0.05`. Raises ValueError that shows how to write it."""
    match = _LIMIT.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is no rule: write `size_bytes <= 95 MB` or `decode_tok_s.median: -5%`")
    metric = find_metric(match["name"])
    allowed = _OPERATORS[metric.better]
    if match["operator"] not in allowed:
        raise ValueError(
            f"{text!r}: {metric.name} is better {metric.better.value}, so its limit is {' or '.join(allowed)}"
        )
    try:
        bound = parse_value(match["bound"], metric.unit)
    except ValueError as error:
        raise ValueError(f"{match['name']}: {error}") from None
    return Limit(metric=metric, operator=match["operator"], bound=bound, bound_text=match["bound"], place=place)


def parse_regression(name: str, value: object, place: Place) -> Regression | Skip:
    """A regression such as `-5%`, or `skip`. Raises ValueError that shows how to write it."""
    metric = find_metric(name)
    if value == SKIP:
        return Skip(metric=metric, place=place)
    sign = "-" if metric.better is Better.HIGHER else "+"
    match = _PERCENT.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{name}: {value!r} is not understood: write `{name}: {sign}5%` for at most 5 % worse than the baseline, "
            f"`{name} {_OPERATORS[metric.better][0]} ...` for a limit, or `{name}: {SKIP}` in a device's section"
        )
    allowed = float(match["number"]) / 100
    if allowed and match["sign"] != sign:
        raise ValueError(f"{name} is better {metric.better.value}, so a regression is written {sign}{match['number']}%")
    if sign == "-" and allowed >= 1:
        raise ValueError(f"{name}: -{match['number']}% allows everything: write less than 100 %")
    if metric.no_regression:
        raise ValueError(f"{name} cannot be judged in percent of a baseline: {metric.no_regression}")
    return Regression(metric=metric, allowed=allowed, allowed_text=f"{sign}{match['number']}%", place=place)
